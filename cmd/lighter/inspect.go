// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"lighter/convert"
	"lighter/format"
)

// inspected is what inspect tells of an image; sizes in bytes.
type inspected struct {
	Image      string            `json:"image"`
	Kind       convert.ImageKind `json:"kind"`
	Digest     string            `json:"digest"`
	Root       string            `json:"root"` // what the name stands for: the image's digest or its index's
	Platform   string            `json:"platform"`
	Layers     []inspectedLayer  `json:"layers"`
	Stored     int64             `json:"stored"`
	FS         *inspectedFS      `json:"fs,omitempty"`
	Repository string            `json:"repository,omitempty"` // that the bootstrap says it was made for
}

type inspectedLayer struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
	Source    string `json:"source,omitempty"` // digest of the layer that it was made of
}

type inspectedFS struct {
	Version    int             `json:"version"`
	ChunkSize  uint32          `json:"chunkSize"`
	Compressor string          `json:"compressor"`
	Digester   string          `json:"digester"`
	Inodes     uint64          `json:"inodes"`
	Bootstrap  int64           `json:"bootstrap"` // uncompressed
	Blobs      []inspectedBlob `json:"blobs"`
}

type inspectedBlob struct {
	ID           string `json:"id"`
	Compressor   string `json:"compressor"`
	Chunks       uint32 `json:"chunks"`
	Features     string `json:"features"`
	Stored       uint64 `json:"stored"`
	Uncompressed uint64 `json:"uncompressed"`
}

func newInspect() *cobra.Command {
	var p places
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "inspect IMAGE | --bootstrap FILE",
		Short:   "What an image is: manifest, blobs, sizes, compressors, counts",
		Example: "  lighter inspect registry.example/app:1-nydus",
		Args:    p.imageArgs(0, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, _ := p.split(args)
			v, err := p.view(cmd.Context(), name)
			var in *inspected
			switch {
			case err == nil:
				defer v.close()
				in = v.describe(name)
			case errors.Is(err, convert.ErrOrdinary):
				if in, err = p.ordinary(cmd, name); err != nil {
					return err
				}
			default:
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), in)
			}
			in.print(cmd.OutOrStdout())
			return nil
		},
	}
	p.flags(cmd)
	p.platformFlag(cmd)
	p.bareFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func (p *places) ordinary(cmd *cobra.Command, name string) (*inspected, error) {
	want, err := p.wanted()
	if err != nil {
		return nil, err
	}
	_, src, err := p.source(cmd.Context(), name)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	im, err := convert.OpenImage(cmd.Context(), src, want)
	if err != nil {
		return nil, err
	}
	return describe(name, im), nil
}

func (v *view) describe(name string) *inspected {
	if v.image == nil {
		return &inspected{Image: name, Kind: convert.KindBoot, FS: describeFS(v.boot)}
	}
	in := describe(name, v.image)
	in.FS, in.Repository = describeFS(v.boot), v.opened.Unpacked.Origin
	return in
}

func describe(name string, im *convert.Image) *inspected {
	in := &inspected{Image: name, Kind: im.Kind, Digest: im.Manifest.Digest.String(), Root: im.Root.Digest.String(), Platform: im.Platform.String()}
	for _, d := range im.Spec.Layers {
		in.Layers = append(in.Layers, inspectedLayer{d.Digest.String(), string(d.MediaType), d.Size, convert.SourceOf(d)})
		in.Stored += d.Size
	}
	return in
}

func describeFS(b *format.Bootstrap) *inspectedFS {
	info := b.Info()
	f := &inspectedFS{Version: info.Version, ChunkSize: info.ChunkSize, Compressor: info.Compressor.String(), Digester: info.Digester.String(), Inodes: info.Inodes, Bootstrap: info.Size}
	for _, bl := range b.Blobs() {
		f.Blobs = append(f.Blobs, inspectedBlob{bl.ID, bl.Compressor.String(), bl.ChunkCount, fmt.Sprintf("%#x", bl.Features), bl.CompressedSize, bl.UncompressedSize})
	}
	return f
}

func (in *inspected) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n  kind      %s\n", in.Image, in.Kind)
	if in.Digest != "" {
		in.printManifest(w)
	}
	in.printFS(w)
}

func (in *inspected) printManifest(w io.Writer) {
	fmt.Fprintf(w, "  manifest  %s\n", in.Digest)
	if in.Root != in.Digest {
		fmt.Fprintf(w, "  index     %s\n", in.Root)
	}
	fmt.Fprintf(w, "  platform  %s\n  stored    %s in %d layers\n", in.Platform, bytesText(in.Stored), len(in.Layers))
	for _, l := range in.Layers {
		fmt.Fprintf(w, "    %s  %9s  %s\n", shortDigest(l.Digest), bytesText(l.Size), l.MediaType)
	}
}

func (in *inspected) printFS(w io.Writer) {
	if in.FS == nil {
		fmt.Fprintln(w, "  not accelerated (hint: lighter convert)")
		return
	}
	f := in.FS
	fmt.Fprintf(w, "  RAFS v%d   %d inodes, chunks of %s, %s, %s; bootstrap %s\n", f.Version, f.Inodes, bytesText(int64(f.ChunkSize)), f.Compressor, f.Digester, bytesText(f.Bootstrap))
	var stored, all uint64
	for _, b := range f.Blobs {
		fmt.Fprintf(w, "    blob %s  %d chunks, %s, %s stored, %s as read, features %s\n", b.ID[:min(12, len(b.ID))], b.Chunks, b.Compressor, bytesText(int64(b.Stored)), bytesText(int64(b.Uncompressed)), b.Features)
		stored, all = stored+b.Stored, all+b.Uncompressed
	}
	if len(in.Layers) == 0 {
		return
	}
	if last := in.Layers[len(in.Layers)-1]; all > 0 {
		fmt.Fprintf(w, "  savings   %s to start instead of %s; data stored in %d %% of its size\n", bytesText(last.Size), bytesText(max(in.Stored, int64(stored))), stored*100/all)
	}
}
