// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
)

// nydus checks what only Nydus images have: the bootstrap against its data,
// and the bootstraps and chunk tables inside the blobs.
func (c *checker) nydus(ctx context.Context, m Manifest, im v1.Manifest, done *CheckedImage) error {
	where := fmt.Sprintf("manifest %s", m.Digest)
	boot := im.Layers[len(im.Layers)-1]
	if c.boots[boot.Digest] {
		return nil
	}
	dir, err := os.MkdirTemp(c.work, "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	img := &Image{Source: c.src, Manifest: m, Spec: im, Kind: kindOf(im)}
	o, err := img.Open(ctx, dir)
	if err != nil {
		return c.problem(ctx, where, err)
	}
	defer o.Close()
	if err := c.problem(ctx, where, c.listed(img, o)); err != nil {
		return err
	}
	local := &localBlobs{ctx: ctx, c: c, o: o, dir: dir}
	rep, err := format.Check(o.Bootstrap, local.open, format.CheckOptions{SkipData: c.o.MetadataOnly})
	if err != nil {
		return c.problem(ctx, where, err)
	}
	c.boots[boot.Digest] = true
	done.Inodes, done.Chunks = o.Bootstrap.Info().Inodes, rep.Verified
	for _, v := range rep.Violations {
		if err := c.problem(ctx, where, v); err != nil {
			return err
		}
		if errors.Is(v, format.ErrUnsupported) {
			return nil // one name is enough
		}
	}
	for _, d := range im.Layers[:len(im.Layers)-1] {
		if err := c.problem(ctx, where+": blob "+d.Digest.Hex, c.inlined(local, d, o.Unpacked.Metas[d.Digest.Hex])); err != nil {
			return err
		}
	}
	return nil
}

// listed says whether a full manifest lists all blobs that its bootstrap needs.
func (c *checker) listed(im *Image, o *Opened) error {
	if im.Kind != KindNydus || len(im.Spec.Layers) == 1 {
		return nil // the data lies in another manifest or store
	}
	have := map[string]bool{}
	for _, d := range im.Spec.Layers {
		have[d.Digest.Hex] = true
		if ref, err := v1.NewHash(d.Annotations[annRef]); err == nil {
			have[ref.Hex] = true
		}
	}
	for _, bl := range o.Bootstrap.Blobs() {
		if !have[bl.ID] {
			return fmt.Errorf("bootstrap needs blob %s, which the manifest does not list", bl.ID)
		}
	}
	return nil
}

// headerOnly is the size of a shipped chunk table without any infos (bytes),
// all that Nydus's own converter ships of tables that it cannot inflate.
const headerOnly = 4096

// meta compares a chunk table shipped with the bootstrap with the blob's own.
func meta(l *format.LayerBlob, file string) error {
	if file == "" {
		return nil // older converters ship none
	}
	shipped, err := os.ReadFile(file)
	if err != nil || len(shipped) == headerOnly {
		return err
	}
	own, err := l.Meta()
	if err == nil && !bytes.Equal(shipped, own) {
		err = fmt.Errorf("%w: the chunk table beside the bootstrap differs from the blob's own", format.ErrCorrupt)
	}
	return err
}

// inlined checks the bootstrap at the end of a layer's blob, and the chunk
// table of the blob that was shipped as the file metaFile.
func (c *checker) inlined(local *localBlobs, d v1.Descriptor, metaFile string) error {
	r, size, err := local.open(format.Blob{ID: d.Digest.Hex})
	if err != nil {
		return err
	}
	defer closeReader(r)
	l, err := format.ReadLayerBlob(r, size)
	if err != nil {
		return err
	}
	if err := meta(l, metaFile); err != nil {
		return err
	}
	raw, err := l.Bootstrap()
	if err != nil {
		return err
	}
	b, err := format.OpenBytes(raw)
	if err != nil {
		return fmt.Errorf("inlined bootstrap: %w", err)
	}
	rep, err := format.Check(b, nil, format.CheckOptions{})
	if err == nil {
		err = rep.Err()
	}
	if err != nil {
		return fmt.Errorf("inlined bootstrap: %w", err)
	}
	return nil
}

func closeReader(r io.ReaderAt) {
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
}

// localBlobs opens blobs for many small reads: those of a registry are fetched
// once, verified, into a directory.
type localBlobs struct {
	ctx context.Context
	c   *checker
	o   *Opened
	dir string
}

func (l *localBlobs) open(bl format.Blob) (io.ReaderAt, int64, error) {
	if _, remote := l.c.src.(*registrySource); !remote || l.c.o.MetadataOnly {
		b, err := l.o.image.blobReader(l.ctx, bl.ID)
		if err != nil {
			return nil, 0, err
		}
		return b, b.Size(), nil
	}
	name := filepath.Join(l.dir, bl.ID+".blob")
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		if err = l.fetch(name, bl.ID); err == nil {
			f, err = os.Open(name)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

func (l *localBlobs) fetch(name, id string) error {
	d := l.o.image.Blob(id)
	if d.Size == 0 {
		b, err := l.o.image.blobReader(l.ctx, id)
		if err != nil {
			return err
		}
		d.Size = b.Size()
		b.Close()
	}
	r, err := l.c.src.Open(l.ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := fill(name, r); err != nil {
		os.Remove(name)
		return err
	}
	l.c.count(d)
	return nil
}
