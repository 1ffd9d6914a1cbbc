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
	// Version of RAFS, 6 or 5; 0: 6. Layers that are to be merged must have
	// the same one.
	Version int
	// Compressor of the chunks; nil: Zstd.
	Compressor *Compressor
	// Level of the compressor; 0: the default, which for Zstd is 1. Level 3,
	// that of the reference builder, takes twice the time for 6 % fewer bytes.
	Level int
	// ChunkSize in bytes, a power of two from 4096 to 16 MiB; 0: 1 MiB.
	// Layers that are to be merged must have the same one.
	ChunkSize uint32
	// BatchSize in bytes, a power of two from 4096 to the chunk size: chunks of
	// files that are smaller than half of it are compressed together. 0: each
	// for itself. Readers older than Nydus 2.3 do not know batches; RAFS v5 has
	// none.
	BatchSize uint32
	// ChunkDict has chunks that are not to be stored again; nil: none. The
	// image then needs the dictionary's blobs, too.
	ChunkDict *ChunkDict
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
	// ChunkCount is the number of distinct chunks in the blob; 0: the layer has
	// no data of its own, and its blob must not be listed in any blob table.
	ChunkCount int
	// DictChunks is the number of distinct chunks taken from the dictionary.
	DictChunks int
	// Meta is the content of the blob's "<hex>.blob.meta" cache file: chunk
	// infos and their header. It is nil without chunks, and with RAFS v5.
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
// inlined bootstrap and, but for RAFS v5, a table of contents, and writes it to w. It streams:
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

	own      int                // the layer's blob in tree.blobs; −1: none yet
	count    int                // chunks of that blob
	infos    []disk.ChunkInfoV2 // of those, when there are batches
	batches  batchWriter
	dictBlob map[uint32]uint32 // blob of the dictionary → index of tree.blobs
	dictUsed int               // chunks of the dictionary
}

var errTooLarge = errors.New("layer is larger than a blob can be")

func newLayerBuilder(w io.Writer, o BuildOptions) (*layerBuilder, error) {
	b := &layerBuilder{compressor: Zstd, own: -1, dictBlob: map[uint32]uint32{}}
	if o.Compressor != nil {
		b.compressor = *o.Compressor
	}
	switch o.Version {
	case 0:
		o.Version = 6
	case 5, 6:
	default:
		return nil, fmt.Errorf("unknown RAFS version %d", o.Version)
	}
	if o.ChunkSize == 0 {
		o.ChunkSize = DefaultChunkSize
	}
	if o.ChunkSize < blockSize || o.ChunkSize > disk.MaxChunkSize || o.ChunkSize&(o.ChunkSize-1) != 0 {
		return nil, fmt.Errorf("chunk size %d is no power of two from %d to %d", o.ChunkSize, blockSize, disk.MaxChunkSize)
	}
	if err := checkBatchSize(o); err != nil {
		return nil, err
	}
	if o.ChunkDict != nil && len(o.ChunkDict.chunks) > 0 {
		if err := o.ChunkDict.fits(o.Version, o.ChunkSize); err != nil {
			return nil, err
		}
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
	b.batches.size = int64(o.BatchSize)
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
	if b.count >= disk.MaxChunksPerBlob-1 {
		return fmt.Errorf("layer has more than %d chunks", disk.MaxChunksPerBlob-1)
	}
	if b.next > disk.MaxUncompressedOff-int64(b.o.ChunkSize) {
		return errTooLarge
	}
	if b.own < 0 {
		b.own = len(b.tree.blobs)
		b.tree.blobs = append(b.tree.blobs, disk.BlobEntry{})
	}
	r := disk.ChunkRecord{
		Digest: c.digest, BlobIndex: uint32(b.own), Index: uint32(b.count), CRC32C: c.crc,
		UncompressedOff: uint64(b.next), UncompressedSize: uint32(len(raw)),
	}
	if c.crc != 0 {
		r.Flags = disk.RecordCRC32C
	}
	var x disk.ChunkInfoV2
	var err error
	if b.batches.takes(c, len(raw)) {
		x, err = b.addToBatch(raw, r.Index)
	} else {
		x, err = b.addStored(raw, packed, &r)
	}
	if err != nil {
		return err
	}
	b.tree.chunks = append(b.tree.chunks, r)
	b.count++
	if b.o.BatchSize > 0 {
		x.UncompressedOff, x.UncompressedSize = r.UncompressedOff, r.UncompressedSize
		b.infos = append(b.infos, x)
	}
	b.next += int64(len(raw))
	if b.o.Version == 6 {
		b.next = up(b.next, blockSize)
	}
	return nil
}

// addStored writes a chunk that is a unit of its own, and tells in r where.
func (b *layerBuilder) addStored(raw, packed []byte, r *disk.ChunkRecord) (x disk.ChunkInfoV2, err error) {
	if err := b.flushBatch(); err != nil {
		return x, err
	}
	stored := raw
	if b.compressor != None && len(packed) < len(raw) {
		stored = packed
		r.Flags |= disk.RecordCompressed
		x.Flags = disk.InfoCompressed
	}
	if err := b.out.leadIn(stored); err != nil {
		return x, err
	}
	off := b.out.size
	if off+int64(len(stored)) > disk.MaxCompressedOff {
		return x, errTooLarge
	}
	r.CompressedOff, r.CompressedSize = uint64(off), uint32(len(stored))
	x.CompressedOff, x.CompressedSize = r.CompressedOff, r.CompressedSize
	if r.Flags&disk.RecordCRC32C != 0 {
		x.Flags |= disk.InfoCRC32C
		x.Data = uint64(r.CRC32C)
	}
	return x, b.out.write(stored)
}

// addDictChunk enters a chunk of the dictionary.
func (b *layerBuilder) addDictChunk(r disk.ChunkRecord) {
	k, found := b.dictBlob[r.BlobIndex]
	if !found {
		k = uint32(len(b.tree.blobs))
		b.dictBlob[r.BlobIndex] = k
		b.tree.blobs = append(b.tree.blobs, b.o.ChunkDict.blobs[r.BlobIndex])
	}
	r.BlobIndex = k
	b.tree.chunks = append(b.tree.chunks, r)
	b.dictUsed++
}
