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
	l := &Layer{ChunkCount: len(b.tree.chunks), DataSize: b.out.size, UncompressedSize: b.next}
	if l.ChunkCount > 0 {
		if err := b.writeMeta(l); err != nil {
			return nil, err
		}
	}
	return l, b.finishLayer(l)
}

// finishLayer writes the bootstrap and the table of contents.
func (b *layerBuilder) finishLayer(l *Layer) error {
	b.tree.mark()
	var err error
	l.Bootstrap, err = b.tree.encode(encoding{flags: b.flags(), volume: layerVolume})
	if err != nil {
		return err
	}
	stored, c, err := pack(Zstd, 0, l.Bootstrap)
	if err != nil {
		return err
	}
	if err := b.out.part(disk.NameBootstrap, l.Bootstrap, stored, c); err != nil {
		return err
	}
	if err := b.out.finish(); err != nil {
		return err
	}
	l.Digest, l.Size = [32]byte(b.out.sum.Sum(nil)), b.out.size
	return nil
}

// writeMeta writes chunk infos and digests and makes the blob table entry.
func (b *layerBuilder) writeMeta(l *Layer) error {
	if err := b.out.endOfData(b.next); err != nil {
		return err
	}
	infos := make([]byte, 0, up(disk.ChunkInfoV1Size*int64(l.ChunkCount), disk.Alignment)+disk.BlobHeaderSize)
	digests := make([]byte, 0, 32*l.ChunkCount)
	for i := range b.tree.chunks {
		r := &b.tree.chunks[i]
		info := disk.ChunkInfoV1{
			UncompressedOff: r.UncompressedOff, UncompressedSize: r.UncompressedSize,
			CompressedOff: r.CompressedOff, CompressedSize: r.CompressedSize,
		}
		infos = info.Append(infos)
		digests = append(digests, r.Digest[:]...)
	}
	stored, c, err := pack(b.compressor, b.o.Level, infos)
	if err != nil {
		return err
	}
	h := &disk.BlobHeader{
		Magic: disk.BlobMagic, Magic2: disk.BlobMagic, Features: layerFeatures,
		CICompressor: uint32(c), ChunkCount: uint32(l.ChunkCount), CIOff: uint64(b.out.size),
		CICompressedSize: uint64(len(stored)), CISize: uint64(len(infos)),
	}
	if err := b.out.meta(infos, stored, c, h); err != nil {
		return err
	}
	if err := b.out.part(disk.NameBlobDigest, digests, digests, None); err != nil {
		return err
	}
	l.Meta = h.Append(append(infos, make([]byte, up(int64(len(infos)), disk.Alignment)-int64(len(infos)))...))
	e := disk.BlobEntry{
		ChunkSize: b.o.ChunkSize, ChunkCount: uint32(l.ChunkCount), Features: layerFeatures,
		Compressor: uint32(b.compressor), Digester: uint32(b.o.Digester),
		CompressedSize: uint64(b.out.size), UncompressedSize: uint64(b.next),
		CICompressor: uint32(c), CIOff: h.CIOff, CICompressedSize: h.CICompressedSize, CISize: h.CISize,
	}
	copy(e.ID[:], PlaceholderID)
	b.tree.blobs = []disk.BlobEntry{e}
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
	f := compressorFlag(b.compressor) | digesterFlag(b.o.Digester) |
		disk.FlagExplicitOwner | disk.FlagInlinedDigests | disk.FlagEncryptNone
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
