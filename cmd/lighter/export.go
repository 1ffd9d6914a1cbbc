// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"lighter/convert"
)

type exportFlags struct {
	places
	tar, dir, image string
	json            bool
}

func newExport() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export IMAGE|--bootstrap FILE --blobs DIR --tar FILE|--dir DIR|--image TARGET",
		Short: "The root file system of an accelerated image: a tar, a directory or an ordinary image",
		Long: `The root file system of an accelerated image: a tar, a directory or an ordinary image.

All data is fetched and verified. An ordinary image has one layer for each one that
the image was made of. With what "lighter convert --keep-tar" keeps, their tars are
the very bytes of the source and the config, Docker's image id, is the source's; an
image that reads from ordinary layers (--oci-ref) gives these back as they are.`,
		Example: `  lighter export registry.example/app:1-nydus --tar - | tar -t
  lighter export registry.example/app:1-nydus --dir /tmp/rootfs
  lighter export registry.example/app:1-nydus --image registry.example/app:1-plain`,
		Args: f.imageArgs(0, 0),
		RunE: func(cmd *cobra.Command, args []string) error { name, _ := f.split(args); return f.run(cmd, name) },
	}
	f.flags(cmd)
	f.platformFlag(cmd)
	f.bareFlags(cmd)
	cmd.Flags().StringVar(&f.tar, "tar", "", "write a tar (-: standard output)")
	cmd.Flags().StringVar(&f.dir, "dir", "", "write into a directory that is empty or missing")
	cmd.Flags().StringVar(&f.image, "image", "", "make an ordinary image")
	cmd.Flags().BoolVar(&f.json, "json", false, "print what was written as JSON")
	return cmd
}

func (f *exportFlags) run(cmd *cobra.Command, name string) error {
	n := 0
	for _, s := range []string{f.tar, f.dir, f.image} {
		if s != "" {
			n++
		}
	}
	switch {
	case n != 1:
		return usagef("one of --tar, --dir and --image is needed")
	case f.bootstrap != "" && f.image != "":
		return usagef("--image needs an image: a bare bootstrap has no config")
	case f.json && f.tar == "-":
		return usagef("--json and --tar - both write to standard output")
	}
	v, err := f.view(cmd.Context(), name)
	if err != nil {
		return err
	}
	defer v.close()
	if f.image != "" {
		return f.toImage(cmd, v)
	}
	var done *convert.Exported
	switch {
	case f.dir != "":
		done, err = convert.ExportDir(cmd.Context(), f.dir, v.boot, v.open)
	case f.tar == "-":
		done, err = exportTo(cmd.OutOrStdout(), v)
	default:
		done, err = f.toFile(v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if done.Sockets > 0 && f.dir == "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "lighter: %d sockets are left out: a tar has none\n", done.Sockets)
	}
	switch {
	case f.json:
		return printJSON(cmd.OutOrStdout(), done)
	case f.tar != "-":
		fmt.Fprintf(cmd.OutOrStdout(), "%d entries, %s of files\n", done.Entries, bytesText(done.Bytes))
	}
	return nil
}

func exportTo(w io.Writer, v *view) (*convert.Exported, error) {
	bw := bufio.NewWriterSize(w, 1<<20)
	done, err := convert.ExportTar(bw, v.boot, v.open)
	if err != nil {
		return nil, err
	}
	return done, bw.Flush()
}

// toFile writes the tar beside its name first.
func (f *exportFlags) toFile(v *view) (_ *convert.Exported, err error) {
	out, err := os.CreateTemp(filepath.Dir(f.tar), ".lighter-export-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			out.Close()
			os.Remove(out.Name())
		}
	}()
	done, err := exportTo(out, v)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(out.Chmod(0o644), out.Close()); err != nil {
		return nil, err
	}
	return done, os.Rename(out.Name(), f.tar)
}

func (f *exportFlags) toImage(cmd *cobra.Command, v *view) (err error) {
	ctx := cmd.Context()
	ref, err := convert.ParseReference(f.image, f.plainHTTP)
	if err != nil {
		return err
	}
	if ref, err = targetTag(ref); err != nil {
		return err
	}
	t, err := openTarget(ctx, ref, f.io(0))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	done, err := convert.ExportImage(ctx, v.image, v.opened, v.dir, t.Sink, ref.Tag)
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), done)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", ref, done.Digest)
	for _, l := range done.Layers {
		fmt.Fprintf(cmd.OutOrStdout(), "  %s  %9s  %s\n", shortDigest(l.Digest.String()), bytesText(l.Size), l.How)
	}
	return nil
}
