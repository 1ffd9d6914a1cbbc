// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"lighter/convert"
	"lighter/format"
)

type checkFlags struct {
	places
	metadataOnly bool
	json         bool
	progress     string
	against      string
}

func newCheck() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check IMAGE [--against SOURCE] | --bootstrap FILE [--blobs DIR]",
		Short: "Verify every structure and every digest of an image",
		Long: `Verify every structure and every digest of an image.

A layout or OCI archive named without a tag is checked whole, with all its files.
With --against, the image is also compared with the ordinary image that it was made
of: manifest, config, every entry and every byte; all layers of that are fetched.
A bare bootstrap has no digest to be trusted by; its structures and, with --blobs,
all chunks are checked.`,
		Example: `  lighter check registry.example/app:1-nydus
  lighter check oci:/images/app
  lighter check registry.example/app:1-nydus --against registry.example/app:1
  lighter check --bootstrap app.boot --blobs /var/lib/blobs`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.bootstrap != "" && f.against != "":
				return usagef("--against goes with an image")
			case f.bootstrap == "" && f.blobs != "":
				return usagef("--blobs goes with --bootstrap")
			case f.bootstrap == "" && len(args) == 0:
				return usagef("an image is missing (usage: %s)", cmd.UseLine())
			case f.bootstrap != "" && len(args) > 0:
				return usagef("an image and --bootstrap exclude each other")
			case f.bootstrap != "":
				return f.bare(cmd)
			}
			return f.image(cmd, args[0])
		},
	}
	f.flags(cmd)
	f.platformFlag(cmd)
	f.bareFlags(cmd)
	cmd.Flags().StringVar(&f.against, "against", "", "the ordinary image that it was made of")
	cmd.Flags().BoolVar(&f.metadataOnly, "metadata-only", false, "leave the data unread")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
	cmd.Flags().StringVar(&f.progress, "progress", "auto", "auto, plain or json")
	return cmd
}

// errCheck ends a check that found something.
var errCheck = errors.New("check failed")

func (f *checkFlags) image(cmd *cobra.Command, name string) error {
	want, err := f.wanted()
	if err != nil {
		return err
	}
	show, err := newProgress(f.progress, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer show.close()
	_, src, err := f.source(cmd.Context(), name)
	if err != nil {
		return err
	}
	defer src.Close()
	o := convert.CheckOptions{MetadataOnly: f.metadataOnly, Platform: want, WorkDir: f.workDir}
	if show.mode != "plain" { // a line per layer would bury the report
		o.Progress = show.event
	}
	rep, err := convert.Check(cmd.Context(), src, o)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if f.against != "" {
		if err := f.compare(cmd.Context(), name, rep); err != nil {
			return err
		}
	}
	show.close()
	return f.report(cmd.OutOrStdout(), name, rep)
}

// compare adds what the comparison with the source finds to the report.
func (f *checkFlags) compare(ctx context.Context, name string, rep *convert.CheckReport) error {
	im, err := f.sideOf(ctx, name)
	if err != nil {
		return err
	}
	defer im.close()
	source, err := f.sideOf(ctx, f.against)
	if err != nil {
		return err
	}
	defer source.close()
	a, problems, err := convert.CheckAgainst(ctx, im.image, source.image, im.dir)
	if err != nil {
		return fmt.Errorf("%s against %s: %w", name, f.against, err)
	}
	rep.Against = a
	for _, p := range problems {
		rep.Problems = append(rep.Problems, "against "+f.against+": "+p)
	}
	return nil
}

func (f *checkFlags) report(w io.Writer, name string, rep *convert.CheckReport) error {
	if f.json {
		if err := printJSON(w, rep); err != nil {
			return err
		}
	} else {
		for _, im := range rep.Images {
			fmt.Fprintln(w, checkedLine(im))
		}
		for _, p := range rep.Problems {
			fmt.Fprintln(w, "problem: "+oneLine(errors.New(p)))
		}
	}
	if n := len(rep.Problems); n > 0 {
		return fmt.Errorf("%s: %w: %s%s", name, errCheck, rep.Problems[0], more(n-1))
	}
	if !f.json {
		fmt.Fprintf(w, "ok: %d blobs (%s) fit their digests\n", rep.Blobs, bytesText(rep.Bytes))
		if rep.Against != nil {
			fmt.Fprintf(w, "ok: %d entries are those of %s\n", rep.Against.Entries, f.against)
		}
	}
	return nil
}

func more(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", n)
}

func checkedLine(im convert.CheckedImage) string {
	parts := []string{im.Name, im.Manifest.String(), im.Platform, string(im.Kind)}
	switch {
	case im.Kind == convert.KindOrdinary:
		parts = append(parts, "(not accelerated)")
	case im.Inodes > 0:
		parts = append(parts, fmt.Sprintf("(%d inodes, %d chunks verified)", im.Inodes, im.Chunks))
	}
	return strings.TrimSpace(strings.Join(parts, " "))
}

// bare checks a bootstrap file by itself or with its blobs.
func (f *checkFlags) bare(cmd *cobra.Command) error {
	rep := &convert.CheckReport{}
	b, closeFile, err := openBootstrap(f.bootstrap)
	if err != nil {
		return err
	}
	defer closeFile()
	var open format.OpenBlob
	if f.blobs != "" {
		open = blobsIn(f.blobs)
	}
	r, err := format.Check(b, open, format.CheckOptions{SkipData: f.metadataOnly})
	if err != nil {
		return fmt.Errorf("%s: %w", f.bootstrap, err)
	}
	for _, v := range r.Violations {
		rep.Problems = append(rep.Problems, v.Error())
	}
	if f.blobs != "" {
		rep.Blobs = len(b.Blobs())
	}
	rep.Bytes = int64(r.Bytes)
	rep.Images = []convert.CheckedImage{{Name: f.bootstrap, Manifest: v1.Hash{Algorithm: "bootstrap", Hex: "bare"}, Kind: convert.KindNydus, Inodes: b.Info().Inodes, Chunks: r.Verified}}
	return f.report(cmd.OutOrStdout(), f.bootstrap, rep)
}

func openBootstrap(name string) (*format.Bootstrap, func(), error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	st, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	b, err := format.Open(file, st.Size())
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, func() { file.Close() }, nil
}

// blobsIn opens blobs as files of a directory, named by id.
func blobsIn(dir string) format.OpenBlob {
	return func(bl format.Blob) (io.ReaderAt, int64, error) {
		file, err := os.Open(filepath.Join(dir, filepath.Base(bl.ID)))
		if err != nil {
			return nil, 0, err
		}
		st, err := file.Stat()
		if err != nil {
			file.Close()
			return nil, 0, err
		}
		return file, st.Size(), nil
	}
}
