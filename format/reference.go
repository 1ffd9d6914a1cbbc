// SPDX-License-Identifier: Apache-2.0

package format

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"lighter/format/internal/disk"
)

// referenceFeatures are those of a layer blob whose data lies elsewhere, as
// the reference converter builds it; with zran, infos and data differ as well.
const (
	referenceFeatures = layerFeatures | disk.BlobSeparate
	zranFeatures      = disk.BlobChunkInfoV2 | disk.BlobZran
)

// Reference is what BuildReference wrote and read.
type Reference struct {
	Layer
	// Archive is the SHA-256 of the layer as it is stored, the id of the blob
	// that the bootstrap names; ArchiveSize is its bytes.
	Archive     [32]byte
	ArchiveSize int64
	// DiffID is the SHA-256 of the layer's tar.
	DiffID [32]byte
}

// BuildReference makes a Nydus layer blob without data: the data stays in the
// layer itself, which r gives as it is stored, a tar or a gzip archive of one.
// What a gzip archive needs to be read from its middle goes into the blob.
// Memory grows with the number of files and chunks, and by up to 32 KiB for each
// 512 KiB of archive. Digests are SHA-256, the only ones
// that readers of such blobs know. Of the options, chunk size and MaxSize count.
//
// Sparse files, whose content is not in the archive as it is, are refused with
// ErrUnsupported, and archives in another compression as well.
func BuildReference(w io.Writer, r io.Reader, o BuildOptions) (*Reference, error) {
	b, err := newReferenceBuilder(w, r, o)
	if err != nil {
		return nil, err
	}
	if err := b.readTar(tar.NewReader(b)); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, b); err != nil { // what follows the archive's end
		return nil, fmt.Errorf("layer tar behind its end: %w", err)
	}
	if _, err := io.Copy(io.Discard, b.archive); err != nil {
		return nil, err
	}
	return b.finish()
}

// referenceBuilder is the state of one BuildReference call. It is the reader
// of the tar.
type referenceBuilder struct {
	*layerBuilder
	archive  *bufio.Reader
	stored   hash.Hash    // of the archive
	length   *byteCounter // of the archive
	plain    hash.Hash    // of the tar
	scan     *gzipScanner // nil: the archive is a tar
	tar      io.Reader
	pos      int64 // in the tar
	chunks   map[chunkKey]uint32
	index    zranIndex
	contexts []uint64 // by chunk: context index << 32 | offset in its output
	buf      []byte
}

// byteCounter counts what is written to it.
type byteCounter int64

func (c *byteCounter) Write(p []byte) (int, error) {
	*c += byteCounter(len(p))
	return len(p), nil
}

func newReferenceBuilder(w io.Writer, r io.Reader, o BuildOptions) (*referenceBuilder, error) {
	none := None
	lb, err := newLayerBuilder(w, BuildOptions{Compressor: &none, Digester: SHA256, ChunkSize: o.ChunkSize, MaxSize: o.MaxSize, Workers: 1})
	if err != nil {
		return nil, err
	}
	b := &referenceBuilder{layerBuilder: lb, stored: sha256.New(), length: new(byteCounter), plain: sha256.New(), chunks: map[chunkKey]uint32{}}
	b.archive = bufio.NewReaderSize(io.TeeReader(r, io.MultiWriter(b.stored, b.length)), 256<<10)
	head, err := b.archive.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		b.compressor = Gzip
		b.scan = newGzipScanner(b.archive)
		b.tar = b.scan
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) || isSkippable(head):
		return nil, fmt.Errorf("layer in zstd: %w: only gzip and uncompressed layers can be read from their middle", ErrUnsupported)
	default:
		b.tar = b.archive
	}
	b.buf = make([]byte, b.o.ChunkSize)
	return b, nil
}

// Read gives the tar.
func (b *referenceBuilder) Read(p []byte) (int, error) {
	n, err := b.tar.Read(p)
	b.plain.Write(p[:n])
	b.pos += int64(n)
	return n, err
}

func (b *referenceBuilder) readTar(r *tar.Reader) error {
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("layer tar: %w", err)
		}
		n, err := b.tree.addTar(h)
		if err == nil && n != nil {
			err = b.readFile(r, n, h.Size)
		}
		if err != nil {
			return fmt.Errorf("layer tar: entry %.200q: %w", h.Name, err)
		}
	}
}

func (b *referenceBuilder) readFile(r io.Reader, n *node, size int64) error {
	if size > b.o.MaxSize-b.size {
		return fmt.Errorf("files of the layer have more than %d bytes", b.o.MaxSize)
	}
	b.size += size
	n.size = size
	for left := size; left > 0; {
		begin := b.pos
		var point *zranPoint
		if b.scan != nil {
			point = b.scan.latest(begin)
		}
		buf := b.buf[:min(left, int64(len(b.buf)))]
		if _, err := io.ReadFull(r, buf); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if b.pos-begin != int64(len(buf)) {
			return fmt.Errorf("%w: a sparse file does not lie in the layer as it is", ErrUnsupported)
		}
		c, err := b.chunk(buf, begin, point)
		if err != nil {
			return err
		}
		n.chunks = append(n.chunks, c)
		left -= int64(len(buf))
	}
	return nil
}

// chunk gives the number of the chunk that lies at begin of the tar.
func (b *referenceBuilder) chunk(data []byte, begin int64, point *zranPoint) (uint32, error) {
	k := chunkKey{b.o.Digester.Sum(data), len(data)}
	if c, ok := b.chunks[k]; ok {
		return c, nil
	}
	number := uint32(len(b.tree.chunks))
	if number >= disk.MaxChunksPerBlob-1 {
		return 0, fmt.Errorf("layer has more than %d chunks", disk.MaxChunksPerBlob-1)
	}
	record := disk.ChunkRecord{
		Digest: k.digest, Index: number, CRC32C: crc32.Checksum(data, castagnoli),
		CompressedOff: uint64(begin), CompressedSize: uint32(len(data)),
		UncompressedOff: uint64(b.next), UncompressedSize: uint32(len(data)),
	}
	if record.CRC32C != 0 {
		record.Flags = disk.RecordCRC32C
	}
	if b.scan != nil {
		context, skip, err := b.index.add(b.scan, point, begin, begin+int64(len(data)))
		if err != nil {
			return 0, err
		}
		b.contexts = append(b.contexts, uint64(context)<<32|uint64(skip))
		record.Flags |= disk.RecordCompressed
		record.CompressedOff, record.CompressedSize = uint64(point.in), 0
	}
	if record.CompressedOff > disk.MaxCompressedOff || b.next > disk.MaxUncompressedOff-int64(b.o.ChunkSize) {
		return 0, errors.New("layer is larger than a blob can be")
	}
	b.next += up(int64(len(data)), blockSize)
	b.tree.chunks = append(b.tree.chunks, record)
	b.chunks[k] = number
	return number, nil
}

func (b *referenceBuilder) finish() (*Reference, error) {
	ref := &Reference{Archive: [32]byte(b.stored.Sum(nil)), ArchiveSize: int64(*b.length), DiffID: [32]byte(b.plain.Sum(nil))}
	ref.ChunkCount, ref.UncompressedSize = len(b.tree.chunks), b.next
	if ref.ChunkCount > 0 {
		if err := b.writeMeta(ref); err != nil {
			return nil, err
		}
	}
	b.tree.mark()
	if err := b.writeBootstrap(&ref.Layer); err != nil {
		return nil, err
	}
	ref.Digest, ref.Size = [32]byte(b.out.sum.Sum(nil)), b.out.size
	return ref, nil
}

// writeMeta writes chunk infos, contexts and digests, and makes the blob table
// entry.
func (b *referenceBuilder) writeMeta(ref *Reference) error {
	infos, digests := b.infos()
	contexts := len(infos)
	features := uint32(referenceFeatures)
	h := &disk.BlobHeader{Magic: disk.BlobMagic, Magic2: disk.BlobMagic, ChunkCount: uint32(ref.ChunkCount)}
	if b.scan != nil {
		features |= zranFeatures
		infos = b.index.append(infos)
		h.ContextOff, h.ContextSize, h.ContextCount = uint64(contexts), uint64(len(infos)-contexts), uint32(len(b.index.contexts))
	}
	stored, c, err := pack(Zstd, referenceLevel, infos)
	if err != nil {
		return err
	}
	if err := b.out.leadIn(stored); err != nil {
		return err
	}
	h.Features, h.CICompressor, h.CIOff = features, uint32(c), uint64(b.out.size)
	h.CICompressedSize, h.CISize = uint64(len(stored)), uint64(len(infos))
	if err := b.out.meta(infos, stored, c, h); err != nil {
		return err
	}
	if err := b.out.part(disk.NameBlobDigest, digests, digests, None); err != nil {
		return err
	}
	ref.Meta = h.Append(append(infos, make([]byte, up(int64(len(infos)), disk.Alignment)-int64(len(infos)))...))
	e := disk.BlobEntry{
		ChunkSize: b.o.ChunkSize, ChunkCount: uint32(ref.ChunkCount), Features: features,
		Compressor: uint32(b.compressor), Digester: uint32(SHA256),
		CompressedSize: uint64(ref.ArchiveSize), UncompressedSize: uint64(b.next),
		CICompressor: uint32(c), CIOff: h.CIOff, CICompressedSize: h.CICompressedSize, CISize: h.CISize,
	}
	copy(e.ID[:], hex.EncodeToString(ref.Archive[:]))
	b.tree.blobs = []disk.BlobEntry{e}
	return nil
}

// referenceLevel is the zstd level of chunk infos: the index shall be small.
const referenceLevel = 9

// infos gives the chunk infos and digests of all chunks.
func (b *referenceBuilder) infos() (infos, digests []byte) {
	for i := range b.tree.chunks {
		r := &b.tree.chunks[i]
		digests = append(digests, r.Digest[:]...)
		if b.scan == nil {
			info := disk.ChunkInfoV1{
				UncompressedOff: r.UncompressedOff, UncompressedSize: r.UncompressedSize,
				CompressedOff: r.CompressedOff, CompressedSize: r.CompressedSize,
			}
			infos = info.Append(infos)
			continue
		}
		info := disk.ChunkInfoV2{
			UncompressedOff: r.UncompressedOff, UncompressedSize: r.UncompressedSize, Flags: disk.InfoCompressed | disk.InfoZran,
			CompressedOff: r.CompressedOff, CompressedSize: r.CompressedSize, Data: b.contexts[i],
		}
		infos = info.Append(infos)
	}
	return infos, digests
}
