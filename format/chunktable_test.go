// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"lighter/format/internal/disk"
)

// tableOf returns the blob.meta form of a golden image's first blob.
func tableOf(t testing.TB, g *goldenImage) (b *Bootstrap, meta []byte) {
	t.Helper()
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	bl := b.Blobs()[0]
	if bl.IsSeparate() {
		for id, p := range g.meta {
			if tab, err := ParseChunkTable(p, bl); err == nil && tab != nil {
				t.Logf("chunk infos of %s", id)
				return b, bytes.Clone(p)
			}
		}
		t.Fatal("no chunk infos")
	}
	r, size, err := g.open(bl)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIf(r)
	tab, err := ReadChunkTable(r, size, bl)
	if err != nil {
		t.Fatal(err)
	}
	meta = append(bytes.Clone(tab.infos), tab.contexts...)
	meta = append(meta, make([]byte, -len(meta)&4095)...)
	return b, tab.header.Append(meta)
}

// firstChunk returns the first chunk of a blob that the image uses.
func firstChunk(t testing.TB, b *Bootstrap, blob uint32) Chunk {
	t.Helper()
	for k := range b.Blobs()[blob].ChunkCount {
		if c, err := b.Chunk(blob, k); err == nil {
			return c
		}
	}
	t.Fatal("no chunk")
	return Chunk{}
}

// useTable looks up all chunks of the first blob.
func useTable(b *Bootstrap, meta []byte) error {
	t, err := ParseChunkTable(meta, b.Blobs()[0])
	if err != nil {
		return err
	}
	for k := range b.Blobs()[0].ChunkCount {
		c, err := b.Chunk(0, k)
		if err != nil {
			continue // not used by the image
		}
		if _, err := b.Extent(c, t); err != nil {
			return err
		}
	}
	return nil
}

func TestChunkTableLies(t *testing.T) {
	images := map[string]*goldenImage{"v1": goldenTag(t, "v6-zstd"), "zran": goldenTag(t, "v6-ociref")}
	for _, g := range goldenImages(t) {
		if g.name == "dir-v6-batch" {
			images["batch"] = g
		}
	}
	for _, l := range []struct {
		image string
		name  string
		do    func(header, infos, contexts []byte)
		want  string
	}{
		{"v1", "magic", func(h, _, _ []byte) { h[0] = 0 }, "magic"},
		{"v1", "second magic", func(h, _, _ []byte) { h[4092] = 0 }, "magic2"},
		{"v1", "compressor", func(h, _, _ []byte) { h[8] = 77 }, "ci_compressor"},
		{"v1", "count", func(h, _, _ []byte) { h[12]++ }, "ci_entries"},
		{"v1", "offset", func(h, _, _ []byte) { h[16]++ }, "ci_offset"},
		{"v1", "stored size", func(h, _, _ []byte) { h[24]++ }, "ci_compressed_size"},
		{"v1", "size", func(h, _, _ []byte) { h[32]++ }, "ci_uncompressed_size"},
		{"v1", "uncompressed offset", func(_, p, _ []byte) { p[3] ^= 1 }, "uncompressed_offset"},
		{"v1", "uncompressed size", func(_, p, _ []byte) { p[6] ^= 1 }, "uncompressed_offset"},
		{"v1", "compressed offset", func(_, p, _ []byte) { p[11] ^= 0xff }, "compressed_offset"},
		{"v1", "compressed offset beyond", func(_, p, _ []byte) { p[12] = 0xff }, "compressed_offset"},
		{"v1", "compressed size", func(_, p, _ []byte) { p[15] ^= 0x80 }, "compressed_offset"},
		{"batch", "context offset", func(h, _, _ []byte) { h[47] = 1 }, "context_offset"},
		{"batch", "context offset in infos", func(h, _, _ []byte) { clear(h[40:48]) }, "context_offset"},
		{"batch", "context size", func(h, _, _ []byte) { h[55] = 0xff }, "context_offset"},
		{"batch", "context count", func(h, _, _ []byte) { h[59] = 0xff }, "context_count"},
		{"batch", "no contexts", func(h, _, _ []byte) { clear(h[56:60]) }, "batch 0 of 0"},
		{"batch", "stored size", func(_, _, c []byte) { le.PutUint32(c, 1<<31) }, "compressed_offset"},
		{"batch", "size", func(_, _, c []byte) { le.PutUint32(c[4:], 1<<31) }, "batch 0"},
		{"batch", "size of nothing", func(_, _, c []byte) { le.PutUint32(c[4:], 0) }, "batch 0"},
		{"batch", "encrypted", func(_, p, _ []byte) { p[7] |= disk.InfoEncrypted }, "encrypted"},
		{"batch", "unknown flag", func(_, p, _ []byte) { p[7] |= 0x80 }, "flags"},
		{"batch", "zran in batch", func(_, p, _ []byte) { p[7] = disk.InfoZran }, "flags"},
		{"zran", "stored size", func(_, _, c []byte) { le.PutUint32(c[24:], 1<<31) }, "zran context 0"},
		{"zran", "no input", func(_, _, c []byte) { le.PutUint32(c[24:], 0) }, "zran context 0"},
		{"zran", "size", func(_, _, c []byte) { le.PutUint32(c[28:], 1<<31) }, "zran context 0"},
		{"zran", "no output", func(_, _, c []byte) { le.PutUint32(c[28:], 0) }, "zran context 0"},
		{"zran", "position", func(_, _, c []byte) { le.PutUint64(c, 1<<63) }, "zran context 0"},
		{"zran", "bits", func(_, _, c []byte) { c[37] = 8 }, "bits"},
		{"zran", "dictionary", func(_, _, c []byte) { le.PutUint64(c[16:], 1<<63) }, "dictionary"},
		{"zran", "dictionary of 64 KiB", func(_, _, c []byte) { le.PutUint32(c[32:], 65536) }, "dictionary"},
		{"zran", "context", func(_, p, _ []byte) { le.PutUint32(p[20:], 1<<31) }, "zran context"},
		{"zran", "place in the output", func(_, p, _ []byte) { le.PutUint32(p[16:], 1<<31) }, "zran context"},
	} {
		t.Run(l.image+" "+l.name, func(t *testing.T) {
			b, meta := tableOf(t, images[l.image])
			if err := useTable(b, meta); err != nil {
				t.Fatalf("undamaged: %v", err)
			}
			var h disk.BlobHeader
			h.Decode(meta[len(meta)-disk.BlobHeaderSize:])
			infos := meta[int64(firstChunk(t, b, 0).Index)*b.Blobs()[0].infoSize():]
			l.do(meta[len(meta)-disk.BlobHeaderSize:], infos, meta[h.ContextOff:])
			err := useTable(b, meta)
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("reading gives %v", err)
			}
			if !strings.Contains(err.Error(), l.want) {
				t.Errorf("reading gives %q, want %q in it", err, l.want)
			}
		})
	}
}

// TestReadChunkTable reads tables that are cut or larger than their object.
func TestReadChunkTable(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	bl := b.Blobs()[0]
	r, size, err := g.open(bl)
	if err != nil {
		t.Fatal(err)
	}
	defer closeIf(r)
	if _, err := ReadChunkTable(r, size, bl); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadChunkTable(r, int64(bl.CIOff+bl.CICompressedSize)+4095, bl); !errors.Is(err, ErrCorrupt) {
		t.Errorf("blob too short for the header: %v", err)
	}
	for _, size := range []int64{-1, 0, 1, int64(bl.CIOff)} {
		if _, err := ReadChunkTable(r, size, bl); !errors.Is(err, ErrCorrupt) {
			t.Errorf("blob of %d bytes: %v", size, err)
		}
	}
	if _, err := ReadChunkTable(bytes.NewReader(nil), size, bl); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrCorrupt) {
		t.Errorf("nothing to read: %v", err)
	}
	other := firstChunk(t, b, 1)
	tab, err := ReadChunkTable(r, size, bl)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Extent(other, tab); err == nil {
		t.Error("chunk infos of another blob are taken")
	}
	c := firstChunk(t, b, 0)
	with, err1 := b.Extent(c, tab)
	without, err2 := b.Extent(c, nil)
	if err1 != nil || err2 != nil || with.Off != without.Off || with.Size != without.Size || with.InflatedSize != without.InflatedSize || with.codec != without.codec {
		t.Errorf("with chunk infos %+v, without %+v (%v, %v)", with, without, err1, err2)
	}
	if _, err := with.Inflate(nil, make([]byte, with.Size-1)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("one stored byte less: %v", err)
	}
	if err := b.Verify(c, make([]byte, c.UncompressedSize)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), bl.ID) || !strings.Contains(err.Error(), "digest") {
		t.Errorf("zeros: %v", err)
	}
	if err := b.Verify(c, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("nothing: %v", err)
	}
}
