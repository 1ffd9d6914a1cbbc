// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"io"
	"maps"
	"strings"
	"testing"

	"lighter/format"
	. "lighter/format/formattest"
)

// withDict builds a layer with the chunks of other images at hand.
func withDict(t *testing.T, layer []byte, o format.BuildOptions, others ...*Image) *Image {
	t.Helper()
	var boots []*format.Bootstrap
	for _, im := range others {
		boots = append(boots, im.Bootstrap)
	}
	d, err := format.NewChunkDict(boots...)
	if err != nil {
		t.Fatal(err)
	}
	o.ChunkDict = d
	im, err := Build([]io.Reader{bytes.NewReader(layer)}, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range others {
		maps.Copy(im.Blobs, other.Blobs)
	}
	return im
}

// TestChunkDict builds images out of others' chunks, whole or in part, and lets
// the peers read them.
func TestChunkDict(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<14)
	a := Tar(t, File{Name: "a", Content: big}, File{Name: "b", Content: "small"}, File{Name: "own", Content: "not wanted"})
	same := Tar(t, File{Name: "x", Content: big}, File{Name: "y", Content: "small"})
	some := Tar(t, File{Name: "x", Content: big + "and more"}, File{Name: "y", Content: "small"}, File{Name: "new", Content: "new"})
	gzip := format.Gzip
	for name, o := range map[string]format.BuildOptions{
		"v6": {ChunkSize: 1 << 16}, "v5": {ChunkSize: 1 << 16, Version: 5}, "batch": {ChunkSize: 1 << 16, BatchSize: 1 << 16},
		"sha256": {ChunkSize: 1 << 16, Digester: format.SHA256}, "gzip": {ChunkSize: 1 << 16, Compressor: &gzip},
	} {
		t.Run(name, func(t *testing.T) {
			base, err := Build([]io.Reader{bytes.NewReader(a)}, o)
			if err != nil {
				t.Fatal(err)
			}
			id := base.Merged.Blobs[0]

			all := withDict(t, same, o, base)
			if l := all.Layers[0]; l.ChunkCount != 0 || l.DictChunks != 2 || l.DataSize != 0 {
				t.Errorf("%d own chunks, %d of the dictionary, %d bytes", l.ChunkCount, l.DictChunks, l.DataSize)
			}
			if b := all.Merged.Blobs; len(b) != 1 || b[0] != id {
				t.Errorf("blobs %v, want %s alone", b, id)
			}

			part := withDict(t, some, o, base)
			if l := part.Layers[0]; l.ChunkCount != 2 || l.DictChunks != 2 {
				t.Errorf("%d own chunks, %d of the dictionary", l.ChunkCount, l.DictChunks)
			}
			if len(part.Merged.Blobs) != 2 {
				t.Errorf("blobs %v", part.Merged.Blobs)
			}
			for _, c := range []struct {
				im    *Image
				layer []byte
			}{{all, same}, {part, some}} {
				c.im.Check(t)
				plain, err := Build([]io.Reader{bytes.NewReader(c.layer)}, o)
				if err != nil {
					t.Fatal(err)
				}
				want := plain.List(t)
				if d := Diff(want, c.im.List(t)); d != "" {
					t.Error(d)
				}
				c.im.CheckWithPeers(t, want)
			}

			dict := encodeDict(t, o, base, part)
			again := withDict(t, some, o, &Image{Bootstrap: dict, Blobs: part.Blobs}, base)
			if l := again.Layers[0]; l.ChunkCount != 0 || l.DictChunks != 4 {
				t.Errorf("with the written dictionary: %d own chunks, %d of the dictionary", l.ChunkCount, l.DictChunks)
			}
			again.Check(t)
		})
	}
}

// encodeDict writes a dictionary of images and opens it as an image.
func encodeDict(t *testing.T, o format.BuildOptions, images ...*Image) *format.Bootstrap {
	t.Helper()
	var boots []*format.Bootstrap
	blobs := map[string][]byte{}
	for _, im := range images {
		boots = append(boots, im.Bootstrap)
		maps.Copy(blobs, im.Blobs)
	}
	d, err := format.NewChunkDict(boots...)
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if q, err := d.Encode(); err != nil || !bytes.Equal(p, q) {
		t.Errorf("written again, other bytes (%v)", err)
	}
	b, err := format.OpenBytes(p)
	if err != nil {
		t.Fatal(err)
	}
	im := &Image{Bytes: p, Bootstrap: b, Blobs: blobs}
	im.Check(t)
	if files := len(im.List(t)) - 1 - len(b.Blobs()); files != d.Len() {
		t.Errorf("%d files for %d chunks", files, d.Len())
	}
	if o.BatchSize == 0 {
		im.CheckWithNydusImage(t)
	}
	return b
}

func TestChunkDictRefuses(t *testing.T) {
	layer := Tar(t, File{Name: "a", Content: "x"})
	im := func(o format.BuildOptions) *Image {
		im, err := Build([]io.Reader{bytes.NewReader(layer)}, o)
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	small, old := im(format.BuildOptions{ChunkSize: 4096}).Bootstrap, im(format.BuildOptions{Version: 5}).Bootstrap
	own, err := format.OpenBytes(im(format.BuildOptions{}).Layers[0].Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	for name, boots := range map[string][]*format.Bootstrap{"chunk sizes": {small, im(format.BuildOptions{}).Bootstrap}, "versions": {old, im(format.BuildOptions{}).Bootstrap}, "single layer": {own}} {
		if _, err := format.NewChunkDict(boots...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, b := range map[string]*format.Bootstrap{"chunk size": small, "version": old} {
		d, err := format.NewChunkDict(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := format.BuildLayer(io.Discard, bytes.NewReader(layer), format.BuildOptions{ChunkDict: d}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Another digester only means that nothing is found.
	d, err := format.NewChunkDict(im(format.BuildOptions{}).Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	l, err := format.BuildLayer(io.Discard, bytes.NewReader(layer), format.BuildOptions{ChunkDict: d, Digester: format.SHA256})
	if err != nil || l.DictChunks != 0 || l.ChunkCount != 1 {
		t.Errorf("another digester: %+v, %v", l, err)
	}
	empty, err := format.NewChunkDict()
	if err != nil || empty.Len() != 0 {
		t.Errorf("of no image: %v", err)
	}
}
