// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"lighter/format/internal/disk"
)

// seed adds the seeds and fails if there are none.
func seed(f *testing.F, all ...[]any) {
	f.Helper()
	if len(all) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range all {
		f.Add(s...)
	}
}

// refusal fails unless err is nil or says what is wrong in the image.
func refusal(t *testing.T, err error) {
	t.Helper()
	var e *Error
	if err != nil && !(errors.As(err, &e) && (errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported))) {
		t.Fatalf("error of another kind: %v", err)
	}
}

// patched returns base with a fuzz input applied: patch is a list of (offset,
// three bytes; new value), so that inputs stay small while images are whole.
// cut bytes are taken off the end.
func patched(base, patch []byte, cut uint32) []byte {
	p := bytes.Clone(base)
	for ; len(patch) >= 4; patch = patch[4:] {
		p[(int(patch[0])|int(patch[1])<<8|int(patch[2])<<16)%len(p)] = patch[3]
	}
	return p[:len(p)-int(min(uint32(len(p)), cut))]
}

// patch is the inverse of patched for two images of the same length.
func patch(base, changed []byte) []byte {
	var p []byte
	for k := range base {
		if base[k] != changed[k] {
			p = append(p, byte(k), byte(k>>8), byte(k>>16), changed[k])
		}
	}
	return p
}

// bootstraps are golden bootstraps: of images and of layers.
func bootstraps(f *testing.F) [][]byte {
	var all [][]byte
	for _, g := range goldenImages(f) {
		all = append(all, g.boot)
		if g.layers == nil {
			continue
		}
		layers := goldenLayers(f, g)
		for _, id := range g.layers {
			l, err := ReadLayerBlob(bytes.NewReader(layers[id]), int64(len(layers[id])))
			if err != nil {
				f.Fatal(err)
			}
			boot, err := l.Bootstrap()
			if err != nil {
				f.Fatal(err)
			}
			all = append(all, boot)
		}
	}
	return all
}

// bootstrapSeeds are each bootstrap as it is, and all damages of one.
func bootstrapSeeds(f *testing.F, all [][]byte) {
	var seeds [][]any
	for k := range all {
		seeds = append(seeds, []any{uint8(k), []byte{}, uint32(0)}, []any{uint8(k), []byte{}, uint32(4096)})
	}
	for _, g := range []*goldenImage{goldenTag(f, "v6-zstd"), goldenV5(f)} {
		b, err := OpenBytes(g.boot)
		if err != nil {
			f.Fatal(err)
		}
		lies := damages
		if b.v5 != nil {
			lies = damagesV5
		}
		for k := range all {
			if !bytes.Equal(all[k], g.boot) {
				continue
			}
			for _, d := range lies {
				v := &victim{b: b, boot: bytes.Clone(g.boot)}
				d.do(v)
				seeds = append(seeds, []any{uint8(k), patch(g.boot, v.boot), uint32(0)})
			}
		}
	}
	if len(seeds) < len(damages)+len(damagesV5) {
		f.Fatalf("only %d seeds", len(seeds))
	}
	seed(f, seeds...)
}

// FuzzOpen reads all metadata of a bootstrap, in place and through a reader,
// which must agree.
func FuzzOpen(f *testing.F) {
	all := bootstraps(f)
	bootstrapSeeds(f, all)
	f.Fuzz(func(t *testing.T, which uint8, patch []byte, cut uint32) {
		boot := patched(all[int(which)%len(all)], patch, cut)
		err := walkMetadata(boot, anyChunk)
		if err != nil && err.Error() == "the tree does not end" {
			return // as many names as a list may have; only Check bounds the tree
		}
		refusal(t, err)
		b, err1 := OpenBytes(boot)
		c, err2 := Open(bytes.NewReader(boot), int64(len(boot)))
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("in place %v, through a reader %v", err1, err2)
		}
		if err1 == nil && b.Info() != c.Info() {
			t.Fatalf("in place %+v, through a reader %+v", b.Info(), c.Info())
		}
	})
}

// FuzzCheck checks a bootstrap; one without violations must read completely.
func FuzzCheck(f *testing.F) {
	all := bootstraps(f)
	bootstrapSeeds(f, all)
	f.Fuzz(func(t *testing.T, which uint8, patch []byte, cut uint32) {
		boot := patched(all[int(which)%len(all)], patch, cut)
		b, err := OpenBytes(boot)
		if err != nil {
			refusal(t, err)
			return
		}
		r, err := Check(b, nil, CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Violations) == 0 {
			if err := walkMetadata(boot, anyChunk); err != nil {
				t.Fatalf("check finds nothing, but reading fails: %v", err)
			}
		}
	})
}

// FuzzDirents parses one directory block.
func FuzzDirents(f *testing.F) {
	var seeds [][]any
	for _, g := range goldenImages(f) {
		b, err := OpenBytes(g.boot)
		if err != nil {
			f.Fatal(err)
		}
		if b.v5 != nil {
			continue
		}
		root, err := b.Inode(b.Info().RootNid)
		if err != nil {
			f.Fatal(err)
		}
		for k := range b.dirBlocks(&root) {
			db, err := b.dirBlock(&root, k)
			if err != nil {
				f.Fatal(err)
			}
			seeds = append(seeds, []any{db.p})
		}
	}
	seed(f, seeds...)
	f.Fuzz(func(t *testing.T, p []byte) {
		db, err := parseDirBlock(p, 0)
		if err != nil {
			refusal(t, err)
			return
		}
		for e := range db.count {
			d, name, err := db.entry(e)
			if err != nil {
				refusal(t, err)
				continue
			}
			if len(name) == 0 || len(name) > 255 || bytes.ContainsAny(name, "/\x00") || dirTypes[d.FileType] == 0 {
				t.Fatalf("entry %d: name %q of type %d", e, name, d.FileType)
			}
		}
	})
}

// FuzzXattrs parses an xattr area, of RAFS v6 or v5.
func FuzzXattrs(f *testing.F) {
	var seeds [][]any
	for _, g := range goldenImages(f) {
		b, err := OpenBytes(g.boot)
		if err != nil {
			f.Fatal(err)
		}
		before := len(seeds)
		for nid := b.Info().RootNid; nid < uint64(len(g.boot))/32 && len(seeds) < before+20; nid++ {
			i, err := b.Inode(nid)
			if err != nil || i.xattr == 0 {
				continue
			}
			off, parse := b.off(nid)+int64(i.head), parseXattrs
			if b.v5 != nil {
				off, parse = i.v5.off+int64(i.v5.names)+8, parseXattrsV5
			}
			p, err := b.view("xattr area", off, int64(i.xattr))
			if _, bad := parse(p, 0); err == nil && bad == nil {
				seeds = append(seeds, []any{p, b.v5 != nil})
			}
		}
	}
	seed(f, seeds...)
	f.Fuzz(func(t *testing.T, p []byte, v5 bool) {
		parse := parseXattrs
		if v5 {
			parse = parseXattrsV5
		}
		all, err := parse(p, 0)
		refusal(t, err)
		for k, x := range all {
			if k > 0 && all[k-1].Name >= x.Name {
				t.Fatalf("%q before %q", all[k-1].Name, x.Name)
			}
			if strings.HasPrefix(x.Name, "trusted.overlay.") || !strings.Contains(x.Name, ".") {
				t.Fatalf("attribute %q is shown", x.Name)
			}
		}
	})
}

// FuzzChunkTable parses a blob.meta file for the blob table that its own
// header asks for, and looks up all its chunks.
func FuzzChunkTable(f *testing.F) {
	var seeds [][]any
	var all [][]byte
	add := func(meta []byte, features uint32) {
		seeds = append(seeds, []any{uint8(len(all)), []byte{}, features})
		all = append(all, meta)
	}
	g := goldenTag(f, "v6-none")
	for _, meta := range g.meta {
		add(meta, disk.BlobAligned|disk.BlobCapTarTOC)
	}
	for _, g := range goldenImages(f) {
		if g.name != "dir-v6-batch" {
			continue
		}
		b, err := OpenBytes(g.boot)
		if err != nil {
			f.Fatal(err)
		}
		bl := b.Blobs()[0]
		r, size, err := g.open(bl)
		if err != nil {
			f.Fatal(err)
		}
		tab, err := ReadChunkTable(r, size, bl)
		if err != nil {
			f.Fatal(err)
		}
		meta := append(bytes.Clone(tab.infos), tab.contexts...)
		meta = append(meta, make([]byte, -len(meta)&4095)...)
		add(tab.header.Append(meta), bl.Features)
		closeIf(r)
	}
	seed(f, seeds...)
	b, err := OpenBytes(g.boot)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, which uint8, patch []byte, features uint32) {
		meta := patched(all[int(which)%len(all)], patch, 0)
		var h disk.BlobHeader
		h.Decode(meta[len(meta)-disk.BlobHeaderSize:])
		e := disk.BlobEntry{ChunkSize: b.info.ChunkSize, ChunkCount: h.ChunkCount, Compressor: uint32(None), Features: features,
			CompressedSize: 1 << 30, UncompressedSize: 1 << 30, CICompressor: h.CICompressor,
			CIOff: h.CIOff, CICompressedSize: h.CICompressedSize, CISize: h.CISize}
		e.ID[0] = 'x'
		bl, err := b.blob(0, 0, &e)
		if err != nil {
			refusal(t, err)
			return
		}
		tab, err := ParseChunkTable(meta, bl)
		if err != nil {
			refusal(t, err)
			return
		}
		one := &Bootstrap{blobs: []Blob{bl}, ext: b.ext}
		for k := range min(bl.ChunkCount, 1000) {
			x, err := tab.info(k)
			if err != nil {
				t.Fatal(err)
			}
			c := Chunk{Index: k, UncompressedOff: int64(x.UncompressedOff), UncompressedSize: x.UncompressedSize,
				compressedOff: int64(x.CompressedOff), compressedSize: x.CompressedSize}
			ext, err := one.Extent(c, tab)
			refusal(t, err)
			if err == nil && (ext.Off < 0 || ext.Size <= 0 || uint64(ext.Off+ext.Size) > bl.DataSize() || ext.Skip < 0 ||
				ext.Skip+int64(c.UncompressedSize) > ext.InflatedSize || ext.InflatedSize > maxUnit) {
				t.Fatalf("chunk %+v at %+v", c, ext)
			}
		}
	})
}

// FuzzLayerBlob reads a layer blob and its bootstrap and chunk infos, which
// must be the builder's or refused.
func FuzzLayerBlob(f *testing.F) {
	var all [][]byte
	var seeds [][]any
	for _, tag := range []string{"v6-zstd", "v6-lz4_block", "v6-ociref"} {
		g := goldenTag(f, tag)
		layers := goldenLayers(f, g)
		for _, id := range g.layers {
			if p := layers[id]; len(p) < 100_000 {
				seeds = append(seeds, []any{uint8(len(all)), []byte{}, uint32(0)}, []any{uint8(len(all)), []byte{1, 0, 0, 1}, uint32(1)})
				all = append(all, p)
			}
		}
	}
	seed(f, seeds...)
	f.Fuzz(func(t *testing.T, which uint8, patch []byte, cut uint32) {
		p := all[int(which)%len(all)]
		for k := 2; k < len(patch); k += 4 { // change the end, where the parts are
			at := len(p) - 1 - (int(patch[k-2])|int(patch[k-1])<<8)%min(len(p), 8192)
			patch[k-2], patch[k-1], patch[k] = byte(at), byte(at>>8), byte(at>>16)
		}
		p = patched(p, patch, cut)
		l, err := ReadLayerBlob(bytes.NewReader(p), int64(len(p)))
		if err != nil {
			refusal(t, err)
			return
		}
		_, err = l.Bootstrap()
		refusal(t, err)
		_, err = l.Meta()
		refusal(t, err)
	})
}

// FuzzInflate decodes with every codec; nothing may be written behind the
// destination.
func FuzzInflate(f *testing.F) {
	var seeds [][]any
	for c := None; c <= Zstd; c++ {
		enc, err := c.encoder(0)
		if err != nil {
			f.Fatal(err)
		}
		for _, in := range codecInputs()[:12] {
			stored, err := enc(nil, in)
			if err != nil {
				f.Fatal(err)
			}
			seeds = append(seeds, []any{uint8(c), uint16(len(in)), stored})
		}
	}
	seed(f, seeds...)
	f.Fuzz(func(t *testing.T, c uint8, size uint16, stored []byte) {
		buf := bytes.Repeat([]byte{0xa5}, int(size)+32)
		e := Extent{Size: int64(len(stored)), InflatedSize: int64(size), codec: Compressor(c % 4)}
		out, err := e.Inflate(buf[:0:size], stored)
		refusal(t, err)
		if err == nil && len(out) != int(size) {
			t.Fatalf("%d bytes rather than %d", len(out), size)
		}
		if !bytes.Equal(buf[size:], bytes.Repeat([]byte{0xa5}, 32)) {
			t.Fatal("wrote behind the destination")
		}
	})
}
