// SPDX-License-Identifier: Apache-2.0

package format

import (
	"strings"
	"sync"

	"lighter/format/internal/disk"
)

// layerFeatures are the features of a layer blob as the reference converter
// builds it.
const layerFeatures = disk.BlobAligned | disk.BlobInlinedMeta | disk.BlobInlinedDigests |
	disk.BlobHasTarHeader | disk.BlobHasTOC | disk.BlobCapTarTOC

// finish writes what follows the chunks: chunk infos, digests, the bootstrap
// and the table of contents.
func (b *layerBuilder) finish() (*Layer, error) {
	if err := b.flushBatch(); err != nil {
		return nil, err
	}
	l := &Layer{ChunkCount: b.count, DictChunks: b.dictUsed, DataSize: b.out.size, UncompressedSize: b.next}
	b.tree.mark()
	var err error
	if b.o.Version == 5 {
		err = b.finishV5(l)
	} else {
		err = b.finishV6(l)
	}
	if err != nil {
		return nil, err
	}
	l.Digest, l.Size = [32]byte(b.out.sum.Sum(nil)), b.out.size
	return l, nil
}

func (b *layerBuilder) finishV6(l *Layer) error {
	if l.ChunkCount > 0 {
		if err := b.writeMeta(l); err != nil {
			return err
		}
	}
	return b.writeBootstrap(l)
}

// writeBootstrap writes the bootstrap and the table of contents.
func (b *layerBuilder) writeBootstrap(l *Layer) error {
	var err error
	if l.Bootstrap, err = b.tree.encode(encoding{flags: b.flags(), volume: layerVolume}); err != nil {
		return err
	}
	stored, c, err := pack(Zstd, 0, l.Bootstrap)
	if err != nil {
		return err
	}
	if err := b.out.part(disk.NameBootstrap, l.Bootstrap, stored, c); err != nil {
		return err
	}
	return b.out.finish()
}

// v5LayerFeatures are the features of a layer blob of RAFS v5.
const v5LayerFeatures = disk.BlobInlinedMeta | disk.BlobHasTarHeader | disk.BlobCapTarTOC

// finishV5 writes a layer blob that is nothing but chunks and bootstrap.
func (b *layerBuilder) finishV5(l *Layer) error {
	if l.ChunkCount > 0 {
		if err := b.out.tarHeader(disk.NameBlobData, l.DataSize); err != nil {
			return err
		}
		e := b.blobEntry(v5LayerFeatures)
		e.CompressedSize = uint64(b.out.size)
		b.tree.blobs[b.own] = e
	}
	b.tree.root.setXattr(markLayer, []byte("y"))
	var err error
	if l.Bootstrap, err = b.tree.encode(encoding{version: 5, flags: b.flags()}); err != nil {
		return err
	}
	if err := b.out.part(disk.NameBootstrap, l.Bootstrap, l.Bootstrap, None); err != nil {
		return err
	}
	return b.out.flush()
}

// blobEntry is what a blob table says of the blob; sizes and places of its
// parts are left to the caller.
func (b *layerBuilder) blobEntry(features uint32) disk.BlobEntry {
	e := disk.BlobEntry{
		ChunkSize: b.o.ChunkSize, ChunkCount: uint32(b.count), Features: features,
		Compressor: uint32(b.compressor), Digester: uint32(b.o.Digester), UncompressedSize: uint64(b.next),
	}
	copy(e.ID[:], PlaceholderID)
	return e
}

// chunkInfos returns the chunk infos with the contexts behind them, and the
// digests, of the layer's own chunks. The header tells how they are laid out.
func (b *layerBuilder) chunkInfos() (infos, digests []byte, h *disk.BlobHeader) {
	h = &disk.BlobHeader{Magic: disk.BlobMagic, Magic2: disk.BlobMagic, Features: layerFeatures, ChunkCount: uint32(b.count)}
	batches := b.batches.count > 0
	infos = make([]byte, 0, up(disk.ChunkInfoV2Size*int64(b.count)+int64(len(b.batches.contexts)), disk.Alignment)+disk.BlobHeaderSize)
	digests = make([]byte, 0, 32*b.count)
	for i := range b.tree.chunks {
		r := &b.tree.chunks[i]
		if int(r.BlobIndex) != b.own {
			continue
		}
		digests = append(digests, r.Digest[:]...)
		if batches {
			infos = b.infos[r.Index].Append(infos)
			continue
		}
		info := disk.ChunkInfoV1{
			UncompressedOff: r.UncompressedOff, UncompressedSize: r.UncompressedSize,
			CompressedOff: r.CompressedOff, CompressedSize: r.CompressedSize,
		}
		infos = info.Append(infos)
	}
	if batches {
		h.Features |= disk.BlobChunkInfoV2 | disk.BlobBatch
		h.ContextOff, h.ContextSize, h.ContextCount = uint64(len(infos)), uint64(len(b.batches.contexts)), b.batches.count
		infos = append(infos, b.batches.contexts...)
	}
	h.CISize = uint64(len(infos))
	return infos, digests, h
}

// writeMeta writes chunk infos and digests and makes the blob table entry.
func (b *layerBuilder) writeMeta(l *Layer) error {
	if err := b.out.endOfData(b.next); err != nil {
		return err
	}
	infos, digests, h := b.chunkInfos()
	how, level := b.compressor, b.o.Level
	if how == Gzip {
		how, level = Zstd, 0 // a table of contents cannot say gzip
	}
	stored, c, err := pack(how, level, infos)
	if err != nil {
		return err
	}
	h.CICompressor, h.CIOff, h.CICompressedSize = uint32(c), uint64(b.out.size), uint64(len(stored))
	if err := b.out.meta(infos, stored, c, h); err != nil {
		return err
	}
	if err := b.out.part(disk.NameBlobDigest, digests, digests, None); err != nil {
		return err
	}
	l.Meta = h.Append(append(infos, make([]byte, up(int64(len(infos)), disk.Alignment)-int64(len(infos)))...))
	e := b.blobEntry(h.Features)
	e.CompressedSize = uint64(b.out.size)
	e.CICompressor, e.CIOff, e.CICompressedSize, e.CISize = uint32(c), h.CIOff, h.CICompressedSize, h.CISize
	b.tree.blobs[b.own] = e
	return nil
}

// pack compresses a part of the blob; when that does not make it smaller, it
// is stored as it is and the compressor is None.
func pack(c Compressor, level int, p []byte) ([]byte, Compressor, error) {
	if c == None {
		return p, None, nil
	}
	compress, err := sharedEncoder(c, level)
	if err != nil {
		return nil, 0, err
	}
	packed, err := compress(nil, p)
	if err != nil {
		return nil, 0, err
	}
	if len(packed) >= len(p) {
		return p, None, nil
	}
	return packed, c, nil
}

type encoderKey struct {
	c     Compressor
	level int
}

// encoders holds the encoders made so far: some take megabytes to set up, and
// all may be used concurrently.
var encoders sync.Map // encoderKey → func(dst, src []byte) ([]byte, error)

// sharedEncoder is Compressor.encoder, but makes each encoder once.
func sharedEncoder(c Compressor, level int) (func(dst, src []byte) ([]byte, error), error) {
	k := encoderKey{c, level}
	if e, ok := encoders.Load(k); ok {
		return e.(func(dst, src []byte) ([]byte, error)), nil
	}
	e, err := c.encoder(level)
	if err != nil {
		return nil, err
	}
	actual, _ := encoders.LoadOrStore(k, e)
	return actual.(func(dst, src []byte) ([]byte, error)), nil
}

func (b *layerBuilder) flags() uint64 {
	f := compressorFlag(b.compressor) | digesterFlag(b.o.Digester) | disk.FlagExplicitOwner
	xattrs := len(b.tree.root.xattrs) > 0
	var rec func(d *node)
	rec = func(d *node) {
		for _, n := range d.children {
			xattrs = xattrs || len(n.xattrs) > 0
			if n.isDir() && !xattrs {
				rec(n)
			}
		}
	}
	if rec(b.tree.root); xattrs {
		f |= disk.FlagHasXattr
	}
	return f
}

func compressorFlag(c Compressor) uint64 {
	switch c {
	case LZ4Block:
		return disk.FlagCompressorLZ4
	case Gzip:
		return disk.FlagCompressorGzip
	case Zstd:
		return disk.FlagCompressorZstd
	}
	return disk.FlagCompressorNone
}

func digesterFlag(d Digester) uint64 {
	if d == SHA256 {
		return disk.FlagDigestSHA256
	}
	return disk.FlagDigestBlake3
}

// mark puts the marks for Merge on implicit directories.
func (t *tree) mark() {
	var rec func(d *node)
	rec = func(d *node) {
		if d.implicit {
			d.setXattr(markImplicit, []byte("y"))
		}
		for name, n := range d.children {
			if n.isDir() && !strings.HasPrefix(name, whiteoutPrefix) {
				rec(n)
			}
		}
	}
	rec(t.root)
}
