// SPDX-License-Identifier: Apache-2.0

package format

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"runtime"

	"lighter/format/internal/disk"
)

// BuildOptions tells how a layer is built. The zero value means the defaults.
type BuildOptions struct {
	// Compressor of the chunks; nil: Zstd. Gzip is refused: nobody expects
	// gzip chunks in a blob that is not an ordinary layer.
	Compressor *Compressor
	// Level of the compressor; 0: the default, which for Zstd is 1. Level 3,
	// that of the reference builder, takes twice the time for 6 % fewer bytes.
	Level int
	// ChunkSize in bytes, a power of two from 4096 to 16 MiB; 0: 1 MiB.
	// Layers that are to be merged must have the same one.
	ChunkSize uint32
	// Digester of the chunks; the zero value is Blake3.
	Digester Digester
	// Workers is the number of chunks digested and compressed at the same
	// time; 0: GOMAXPROCS. The bytes written do not depend on it.
	Workers int
	// MaxSize is the number of bytes that the files of a layer may have
	// together, holes included; 0: 1 TiB. A small sparse file can claim much.
	MaxSize int64
}

// Layer is what BuildLayer wrote.
type Layer struct {
	// Digest is the SHA-256 of all bytes written: the blob's id and the digest
	// of the image layer.
	Digest [32]byte
	// Size is the number of bytes written.
	Size int64
	// Bootstrap is the layer's own bootstrap, uncompressed. Its blob, if any,
	// has PlaceholderID as its id.
	Bootstrap []byte
	// ChunkCount is the number of distinct chunks; 0: the layer has no data,
	// and its blob must not be listed in any blob table.
	ChunkCount int
	// Meta is the content of the blob's "<hex>.blob.meta" cache file: chunk
	// infos and their header. It is nil without chunks.
	Meta []byte
	// DataSize and UncompressedSize are the bytes of all chunks, as stored
	// and as they are read.
	DataSize, UncompressedSize int64
}

// DefaultChunkSize is the chunk size of BuildOptions, in bytes.
const DefaultChunkSize = 1 << 20

const (
	defaultMaxSize   = 1 << 40
	defaultZstdLevel = 1
)

// BuildLayer turns an uncompressed layer tar into a Nydus layer blob with an
// inlined bootstrap and a table of contents, and writes it to w. It streams:
// memory grows with the number of files and chunks, not with their size. The
// tar stream is read to its end, also behind the archive's end mark.
//
// Entries mean what they mean to Docker. Whiteouts stay as ordinary files,
// for Merge. Attributes below trusted.overlay. are dropped. An entry that
// cannot be unpacked safely, or that the format cannot hold, is an error that
// names it. The same tar and options give the same bytes.
func BuildLayer(w io.Writer, r io.Reader, o BuildOptions) (*Layer, error) {
	b, err := newLayerBuilder(w, o)
	if err != nil {
		return nil, err
	}
	p := b.startPipeline()
	err = b.readTar(tar.NewReader(r), p)
	if failed := p.finish(); failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, fmt.Errorf("layer tar behind its end: %w", err)
	}
	return b.finish()
}

// layerBuilder is the state of one BuildLayer call.
type layerBuilder struct {
	o          BuildOptions
	compressor Compressor
	compress   func(dst, src []byte) ([]byte, error)
	out        *blobWriter
	tree       *tree
	size       int64 // bytes of files read so far
	dedup      dedup
	next       int64 // uncompressed offset of the next chunk
}

func newLayerBuilder(w io.Writer, o BuildOptions) (*layerBuilder, error) {
	b := &layerBuilder{compressor: Zstd}
	if o.Compressor != nil {
		b.compressor = *o.Compressor
	}
	if b.compressor == Gzip {
		return nil, errors.New("blobs are not built with gzip")
	}
	if o.ChunkSize == 0 {
		o.ChunkSize = DefaultChunkSize
	}
	if o.ChunkSize < blockSize || o.ChunkSize > disk.MaxChunkSize || o.ChunkSize&(o.ChunkSize-1) != 0 {
		return nil, fmt.Errorf("chunk size %d is no power of two from %d to %d", o.ChunkSize, blockSize, disk.MaxChunkSize)
	}
	if !o.Digester.Valid() {
		return nil, fmt.Errorf("unknown %s", o.Digester)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.MaxSize <= 0 {
		o.MaxSize = defaultMaxSize
	}
	if b.compressor == Zstd && o.Level == 0 {
		o.Level = defaultZstdLevel
	}
	compress, err := sharedEncoder(b.compressor, o.Level)
	if err != nil {
		return nil, err
	}
	b.o, b.compress = o, compress
	b.out = newBlobWriter(w)
	b.tree = newTree(o.ChunkSize)
	b.dedup.claims = map[chunkKey]*claim{}
	return b, nil
}

// readTar puts all entries into the tree and all content into the pipeline.
func (b *layerBuilder) readTar(r *tar.Reader, p *pipeline) error {
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
			err = b.readFile(r, n, h.Size, p)
		}
		if err != nil {
			return fmt.Errorf("layer tar: entry %.200q: %w", h.Name, err)
		}
	}
}

// readFile cuts the content of a file into chunks.
func (b *layerBuilder) readFile(r io.Reader, n *node, size int64, p *pipeline) error {
	if size > b.o.MaxSize-b.size {
		return fmt.Errorf("files of the layer have more than %d bytes", b.o.MaxSize)
	}
	b.size += size
	n.size = size
	for size > 0 {
		buf, err := p.room(int(min(size, int64(b.o.ChunkSize))))
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(r, buf); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		p.add(n, buf)
		size -= int64(len(buf))
	}
	return nil
}

// addChunk numbers a new chunk and writes its stored form. It is called in
// the order of the tar.
func (b *layerBuilder) addChunk(c *piece, raw, packed []byte) error {
	stored, flags := packed, uint32(disk.RecordCompressed)
	if b.compressor == None || len(packed) >= len(raw) {
		stored, flags = raw, 0
	}
	if c.crc != 0 {
		flags |= disk.RecordCRC32C
	}
	if err := b.out.leadIn(stored); err != nil {
		return err
	}
	off := b.out.size
	switch {
	case len(b.tree.chunks) >= disk.MaxChunksPerBlob-1:
		return fmt.Errorf("layer has more than %d chunks", disk.MaxChunksPerBlob-1)
	case off+int64(len(stored)) > disk.MaxCompressedOff || b.next > disk.MaxUncompressedOff-int64(b.o.ChunkSize):
		return errors.New("layer is larger than a blob can be")
	}
	b.tree.chunks = append(b.tree.chunks, disk.ChunkRecord{
		Digest: c.digest, Flags: flags, Index: uint32(len(b.tree.chunks)), CRC32C: c.crc,
		CompressedOff: uint64(off), CompressedSize: uint32(len(stored)),
		UncompressedOff: uint64(b.next), UncompressedSize: uint32(len(raw)),
	})
	b.next += up(int64(len(raw)), blockSize)
	return b.out.write(stored)
}
