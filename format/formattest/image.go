// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"lighter/format"
)

// Image is a built image in memory.
type Image struct {
	Bytes     []byte // the merged bootstrap
	Bootstrap *format.Bootstrap
	Blobs     map[string][]byte // by id, also those that the image does not use
	Layers    []*format.Layer
	Merged    *format.Merged
}

// Build builds the layers, uncompressed tars with the lowest first, and
// merges them.
func Build(tars []io.Reader, o format.BuildOptions) (*Image, error) {
	im := &Image{Blobs: map[string][]byte{}}
	var layers []format.MergeLayer
	for i, t := range tars {
		var blob bytes.Buffer
		l, err := format.BuildLayer(&blob, t, o)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		b, err := format.OpenBytes(l.Bootstrap)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		id := hex.EncodeToString(l.Digest[:])
		im.Blobs[id] = blob.Bytes()
		im.Layers = append(im.Layers, l)
		layers = append(layers, format.MergeLayer{ID: id, Bootstrap: b})
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

// MergeLayers returns the image's layers as they were merged.
func (im *Image) MergeLayers(t *testing.T) []format.MergeLayer {
	t.Helper()
	var layers []format.MergeLayer
	for _, l := range im.Layers {
		b, err := format.OpenBytes(l.Bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, format.MergeLayer{ID: hex.EncodeToString(l.Digest[:]), Bootstrap: b})
	}
	return layers
}

// Open gives access to the image's blobs.
func (im *Image) Open(bl format.Blob) (io.ReaderAt, int64, error) {
	p, ok := im.Blobs[bl.ID]
	if !ok {
		return nil, 0, fmt.Errorf("blob %s: %w", bl.ID, os.ErrNotExist)
	}
	return bytes.NewReader(p), int64(len(p)), nil
}

// BlobOf gives the blob of one of the layers.
func (im *Image) BlobOf(l *format.Layer) []byte { return im.Blobs[hex.EncodeToString(l.Digest[:])] }

// List lists the image.
func (im *Image) List(t *testing.T) Listing {
	t.Helper()
	l, err := ListBootstrap(im.Bootstrap, im.Open)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Check runs format.Check on the image and on each of its layers, with all
// data, and reads the layers' bootstraps out of the blobs.
func (im *Image) Check(t *testing.T) {
	t.Helper()
	check := func(what string, b *format.Bootstrap, open format.OpenBlob) {
		t.Helper()
		r, err := format.Check(b, open, format.CheckOptions{})
		if err == nil {
			err = r.Err()
		}
		if err != nil {
			t.Errorf("check %s: %v", what, err)
		}
	}
	check("image", im.Bootstrap, im.Open)
	for i, l := range im.Layers {
		blob := im.Blobs[hex.EncodeToString(l.Digest[:])]
		if !format.IsLayerBlob(blob) || int64(len(blob)) != l.Size {
			t.Errorf("layer %d: %d bytes that are no layer blob of %d bytes", i, len(blob), l.Size)
		}
		lb, err := format.ReadLayerBlob(bytes.NewReader(blob), int64(len(blob)))
		if err != nil {
			t.Errorf("layer %d: %v", i, err)
			continue
		}
		boot, err := lb.Bootstrap()
		if err != nil || !bytes.Equal(boot, l.Bootstrap) {
			t.Errorf("layer %d: inlined bootstrap differs (%v)", i, err)
		}
		b, err := format.OpenBytes(l.Bootstrap)
		if err != nil {
			t.Errorf("layer %d: %v", i, err)
			continue
		}
		check(fmt.Sprintf("layer %d", i), b, func(bl format.Blob) (io.ReaderAt, int64, error) {
			if bl.ID != format.PlaceholderID {
				return im.Open(bl) // of a chunk dictionary
			}
			return bytes.NewReader(blob), int64(len(blob)), nil
		})
		own := slices.IndexFunc(b.Blobs(), func(bl format.Blob) bool { return bl.ID == format.PlaceholderID })
		switch {
		case own < 0 && (l.Meta != nil || l.ChunkCount != 0 || lb.HasData):
			t.Errorf("layer %d: data without a blob", i)
		case b.Info().Version == 5 && l.Meta != nil:
			t.Errorf("layer %d: chunk infos with RAFS v5", i)
		case own >= 0 && b.Info().Version == 6:
			if _, err := format.ParseChunkTable(l.Meta, b.Blobs()[own]); err != nil {
				t.Errorf("layer %d: blob.meta: %v", i, err)
			}
		}
	}
}
