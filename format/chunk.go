// SPDX-License-Identifier: Apache-2.0

package format

import (
	"slices"

	"lighter/format/internal/disk"
)

// Chunk is one chunk of a blob, as the bootstrap's chunk table has it, or in
// RAFS v5 the record of a file.
type Chunk struct {
	BlobIndex        uint32
	Index            uint32   // number in the blob
	UncompressedOff  int64    // in the blob's uncompressed address space, in bytes
	UncompressedSize uint32   // bytes
	Digest           [32]byte // of the uncompressed bytes

	compressedOff  int64
	compressedSize uint32
	flags          uint32
	crc            uint32
	record         uint32 // its record: see recordOff
	fileOff        uint64 // where some file has it, in bytes
}

// chunkCount is the number of chunk indexes of a regular file.
func (b *Bootstrap) chunkCount(i *Inode) int64 {
	cs := int64(b.ext.ChunkSize)
	n := i.Size / cs
	if i.Size%cs != 0 {
		n++
	}
	return n
}

// indexOff is where the chunk indexes, or in RAFS v5 the chunk records, of a
// regular file begin.
func (b *Bootstrap) indexOff(i *Inode) int64 {
	if b.v5 != nil {
		return i.v5.chunks(i.xattr)
	}
	return (b.tail(i) + 7) &^ 7
}

// FileChunks calls fn for the chunks of a regular file that overlap the n
// bytes from off, in order, until fn returns false. fileOff is where the
// chunk begins in the file, in bytes. Index, chunk table and the file's size
// must agree on every chunk.
func (b *Bootstrap) FileChunks(i Inode, off, n int64, fn func(fileOff int64, c Chunk) bool) error {
	if !i.IsRegular() {
		return corrupt("inode", "i_mode", b.off(i.Nid)+4, "%#o is no regular file", i.Mode)
	}
	if off < 0 || n < 0 {
		return corrupt("inode", "", -1, "read of %d bytes at %d", n, off)
	}
	if off >= i.Size || n == 0 {
		return nil
	}
	n = min(n, i.Size-off)
	cs := int64(b.ext.ChunkSize)
	for k := off / cs; k <= (off+n-1)/cs; k++ {
		c, at, err := b.fileChunk(&i, k)
		if err != nil {
			return err
		}
		if want := min(cs, i.Size-k*cs); int64(c.UncompressedSize) != want {
			return corrupt("chunk index", "chunk", at, "chunk %d of blob %d has %d bytes, inode %d needs %d",
				c.Index, c.BlobIndex, c.UncompressedSize, i.Nid, want)
		}
		if !fn(k*cs, c) {
			return nil
		}
	}
	return nil
}

// fileChunk returns chunk k of a regular file, and where its index or record lies.
func (b *Bootstrap) fileChunk(i *Inode, k int64) (c Chunk, at int64, err error) {
	if b.v5 != nil {
		at = b.indexOff(i) + k*disk.ChunkRecordSize
		c, err = b.record(uint32(at / disk.V5Align))
		if want := uint64(k) * uint64(b.ext.ChunkSize); err == nil && c.fileOff != want {
			err = corrupt("chunk", "file_offset", at+64, "%d, but it is chunk %d of inode %d", c.fileOff, k, i.Nid)
		}
		return c, at, err
	}
	at = b.indexOff(i) + k*disk.ChunkIndexSize
	p, err := b.view("chunk index", at, disk.ChunkIndexSize)
	if err != nil {
		return Chunk{}, at, err
	}
	var x disk.ChunkIndex
	x.Decode(p)
	c, err = b.indexedChunk(x, at)
	return c, at, err
}

// indexedChunk joins a chunk index, which lies at byte at, with the chunk table.
func (b *Bootstrap) indexedChunk(x disk.ChunkIndex, at int64) (Chunk, error) {
	if x.BlobPlus1 == 0 || int(x.BlobPlus1) > len(b.blobs) {
		return Chunk{}, corrupt("chunk index", "device", at+2, "device %d of %d", x.BlobPlus1, len(b.blobs))
	}
	c, err := b.Chunk(uint32(x.BlobPlus1)-1, x.Chunk)
	if err != nil {
		return Chunk{}, err
	}
	if c.UncompressedOff != int64(x.Blkaddr)<<b.blkBits {
		return Chunk{}, corrupt("chunk index", "blkaddr", at+4, "block %d, but chunk %d of blob %d is at byte %d",
			x.Blkaddr, c.Index, c.BlobIndex, c.UncompressedOff)
	}
	return c, nil
}

// Chunk returns the chunk with number chunkIndex of the blob.
func (b *Bootstrap) Chunk(blobIndex, chunkIndex uint32) (Chunk, error) {
	if uint64(blobIndex) >= uint64(len(b.blobs)) {
		return Chunk{}, corrupt("chunk", "blob_index", -1, "%d of %d blobs", blobIndex, len(b.blobs))
	}
	x := &b.records
	x.once.Do(func() { x.err = b.buildIndex() })
	if x.err != nil {
		return Chunk{}, x.err
	}
	first, end := x.first[blobIndex], x.first[blobIndex+1]
	mine := x.order[first:end]
	// Numbers are dense as a rule: look at the place where it then must be.
	if uint64(chunkIndex) < uint64(len(mine)) {
		if c, err := b.record(mine[chunkIndex]); err != nil || c.Index == chunkIndex {
			return c, err
		}
	}
	var err error
	at, found := slices.BinarySearchFunc(mine, chunkIndex, func(n, want uint32) int {
		p, e := b.recordBytes(n)
		if e != nil {
			err = e
			return 0
		}
		return int(int64(le.Uint32(p[72:])) - int64(want))
	})
	switch {
	case err != nil:
		return Chunk{}, err
	case !found:
		return Chunk{}, corrupt("chunk table", "", int64(b.ext.ChunkTableOff), "no record for chunk %d of blob %d", chunkIndex, blobIndex)
	}
	return b.record(mine[at])
}

// recordBytes returns record n of the chunk table.
func (b *Bootstrap) recordBytes(n uint32) ([]byte, error) {
	return b.view("chunk table", b.recordOff(n), disk.ChunkRecordSize)
}

// recordOff is where record n lies in the bootstrap. RAFS v5 has no table, and
// a record there is known by its place in units of eight bytes.
func (b *Bootstrap) recordOff(n uint32) int64 {
	if b.v5 != nil {
		return int64(n) * disk.V5Align
	}
	return int64(b.ext.ChunkTableOff) + int64(n)*disk.ChunkRecordSize
}

// record reads and checks record n of the chunk table.
func (b *Bootstrap) record(n uint32) (Chunk, error) {
	p, err := b.recordBytes(n)
	if err != nil {
		return Chunk{}, err
	}
	var r disk.ChunkRecord
	r.Decode(p)
	c, err := b.chunk(&r, b.recordOff(n))
	c.record = n
	return c, err
}

// chunk checks a record, which lies at byte off, and returns it as a Chunk.
func (b *Bootstrap) chunk(r *disk.ChunkRecord, off int64) (Chunk, error) {
	bad := func(field string, at int64, detail string, args ...any) (Chunk, error) {
		return Chunk{}, corrupt("chunk table", field, off+at, detail, args...)
	}
	if uint64(r.BlobIndex) >= uint64(len(b.blobs)) {
		return bad("blob_index", 32, "%d of %d blobs", r.BlobIndex, len(b.blobs))
	}
	bl := &b.blobs[r.BlobIndex]
	room := (bl.UncompressedSize + disk.Alignment - 1) &^ (disk.Alignment - 1)
	switch {
	case r.Flags&^disk.RecordKnown != 0:
		return bad("flags", 36, "unknown bits in %#x", r.Flags)
	case r.Flags&disk.RecordHole != 0 || r.Flags&disk.RecordEncrypted != 0 && bl.cipher == nil || b.v5 != nil && r.Flags&disk.RecordBatch != 0:
		return Chunk{}, unsupported("chunk table", "flags", off+36, "%#x: hole, encrypted chunk of a plain blob or batch of RAFS v5", r.Flags)
	case r.Index >= bl.ChunkCount && bl.Features&disk.BlobChunkDict == 0:
		return bad("index", 72, "%d of %d chunks of blob %d", r.Index, bl.ChunkCount, r.BlobIndex)
	case r.UncompressedSize == 0 || r.UncompressedSize > b.ext.ChunkSize:
		return bad("uncompressed_size", 44, "%d is not within 1 to %d", r.UncompressedSize, b.ext.ChunkSize)
	case r.UncompressedOff%disk.Alignment != 0 && b.v5 == nil || r.UncompressedOff > room || uint64(r.UncompressedSize) > room-r.UncompressedOff:
		return bad("uncompressed_offset", 56, "%d bytes at %d of %d", r.UncompressedSize, r.UncompressedOff, room)
	}
	if !b.NeedsMeta(r.BlobIndex) {
		if err := checkStored(bl, r.CompressedOff, r.CompressedSize, r.UncompressedSize, r.Flags&disk.RecordCompressed != 0); err != "" {
			return bad("compressed_offset", 48, "%s", err)
		}
	}
	return Chunk{
		BlobIndex: r.BlobIndex, Index: r.Index, UncompressedOff: int64(r.UncompressedOff), UncompressedSize: r.UncompressedSize,
		Digest: r.Digest, compressedOff: int64(r.CompressedOff), compressedSize: r.CompressedSize, flags: r.Flags, crc: r.CRC32C, fileOff: r.FileOff,
	}, nil
}

// checkStored says what is wrong with the stored form of a chunk that is a
// unit of its own, "" if nothing. Encrypted ones may have grown.
func checkStored(bl *Blob, off uint64, size, inflated uint32, compressed bool) string {
	data := bl.DataSize()
	switch {
	case size == 0 || off > data || uint64(size) > data-off:
		return "the stored chunk does not lie in the blob's data"
	case !compressed && size != inflated && bl.cipher == nil:
		return "stored as it is, but the sizes differ"
	}
	return ""
}
