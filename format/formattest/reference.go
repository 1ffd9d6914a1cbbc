// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"

	"lighter/format"
)

// BuildReferences builds an image whose data stays in the layers, which are
// tars or gzip archives with the lowest first.
func BuildReferences(archives [][]byte, o format.BuildOptions) (*Image, error) {
	im := &Image{Blobs: map[string][]byte{}}
	var layers []format.MergeLayer
	for i, a := range archives {
		var blob bytes.Buffer
		ref, err := format.BuildReference(&blob, bytes.NewReader(a), o)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		b, err := format.OpenBytes(ref.Bootstrap)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		id := hex.EncodeToString(ref.Digest[:])
		im.Blobs[id], im.Blobs[hex.EncodeToString(ref.Archive[:])] = blob.Bytes(), a
		layers = append(layers, format.MergeLayer{ID: id, Bootstrap: b, Size: ref.Size})
	}
	var out bytes.Buffer
	var err error
	if im.Merged, err = format.Merge(&out, layers, format.MergeOptions{}); err != nil {
		return nil, err
	}
	im.Bytes = out.Bytes()
	im.Bootstrap, err = format.OpenBytes(im.Bytes)
	return im, err
}

// ListContent lists an image through format's own reader.
func (im *Image) ListContent() (Listing, error) {
	c := im.Bootstrap.Content(im.Open)
	defer c.Close()
	l := &lister{b: im.Bootstrap, read: func(i format.Inode) io.Reader {
		return io.NewSectionReader(inodeReader{c, i}, 0, i.Size)
	}}
	root, err := im.Bootstrap.Inode(im.Bootstrap.Info().RootNid)
	if err == nil {
		err = l.list("", root)
	}
	return l.all.sorted(), err
}

type inodeReader struct {
	c *format.Content
	i format.Inode
}

func (r inodeReader) ReadAt(p []byte, off int64) (int, error) { return r.c.ReadAt(r.i, p, off) }
