// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"lighter/convert"
	"lighter/format"
)

type dictFlags struct {
	places
	output string
	json   bool
}

// dictionaryMade is the result as JSON.
type dictionaryMade struct {
	File   string `json:"file"`
	Size   int64  `json:"size"`
	Chunks int    `json:"chunks"`
	Blobs  int    `json:"blobs"`
	ID     string `json:"id"`
}

func newDict() *cobra.Command {
	var f dictFlags
	cmd := &cobra.Command{
		Use:   "dict IMAGE...",
		Short: "Make a chunk dictionary of accelerated images",
		Long: `Make a chunk dictionary of accelerated images: a bootstrap that lists all of their
chunks, for the --chunk-dict of lighter convert and nydus-image. Where several images
have a chunk, the one that is named first counts. An image can be a dictionary as it
is; several need this.`,
		Example: `  lighter dict registry.example/base:1-nydus registry.example/base:2-nydus --output base.dict
  lighter convert --chunk-dict base.dict registry.example/app:1 registry.example/app:1-nydus`,
		Args: usageArgs(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.flags(cmd)
	f.platformFlag(cmd)
	cmd.Flags().StringVarP(&f.output, "output", "o", "chunk.dict", "file to write")
	cmd.Flags().BoolVar(&f.json, "json", false, "print what was written as JSON")
	return cmd
}

func (f *dictFlags) run(cmd *cobra.Command, args []string) error {
	var boots []*format.Bootstrap
	for _, name := range args {
		b, _, end, err := f.dictImage(cmd.Context(), name)
		if err != nil {
			return err
		}
		defer end()
		boots = append(boots, b)
	}
	d, err := format.NewChunkDict(boots...)
	if err != nil {
		return err
	}
	raw, err := d.Encode()
	if err != nil {
		return err
	}
	if err := writeWhole(f.output, raw); err != nil {
		return err
	}
	b, err := format.OpenBytes(raw)
	if err != nil {
		return err
	}
	made := dictionaryMade{f.output, int64(len(raw)), d.Len(), len(b.Blobs()), d.ID()}
	if f.json {
		return printJSON(cmd.OutOrStdout(), made)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d chunks of %d blobs, %s\n", made.File, made.Chunks, made.Blobs, bytesText(made.Size))
	return err
}

// writeWhole writes a file that is never seen half-written.
func writeWhole(name string, p []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".lighter-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(p)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}

// openedBlob opens a blob by its id.
type openedBlob = func(ctx context.Context, id string) (convert.Blob, error)

// dictImage opens an image, or a bare bootstrap whose blobs lie beside it, and
// tells how to open its blobs. end must be called after use.
func (p *places) dictImage(ctx context.Context, name string) (b *format.Bootstrap, blobs openedBlob, end func(), err error) {
	if isBootstrapFile(name) {
		b, end, err := openBootstrap(name)
		return b, blobFiles(filepath.Dir(name)), end, err
	}
	bare := *p
	bare.bootstrap = ""
	v, err := bare.view(ctx, name)
	if err != nil {
		return nil, nil, nil, err
	}
	blobs = func(ctx context.Context, id string) (convert.Blob, error) {
		return v.src.ReaderAt(ctx, v.image.Blob(id))
	}
	return v.boot, blobs, v.close, nil
}

// isBootstrapFile tells a bootstrap from the name of an image.
func isBootstrapFile(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	return (err == nil || err == io.ErrUnexpectedEOF) && format.IsBootstrap(head[:n])
}

// blobFiles opens blobs that are files of a directory, named by id.
func blobFiles(dir string) openedBlob {
	return func(_ context.Context, id string) (convert.Blob, error) {
		f, err := os.Open(filepath.Join(dir, id))
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w (hint: name the image itself as dictionary, or put its blobs beside the bootstrap)", id, convert.ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		return &blobFile{f, st.Size()}, nil
	}
}

type blobFile struct {
	*os.File
	size int64
}

func (b *blobFile) Size() int64 { return b.size }

// dictionary opens what --chunk-dict names. end must be called after use.
func (p *places) dictionary(ctx context.Context, name string) (_ *convert.Dictionary, end func(), err error) {
	b, blobs, end, err := p.dictImage(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("chunk dictionary: %w", err)
	}
	d, err := format.NewChunkDict(b)
	if err != nil {
		end()
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return &convert.Dictionary{Chunks: d, Blob: blobs}, end, nil
}
