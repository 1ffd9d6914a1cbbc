// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"

	"lighter/format/internal/disk"
)

// loadV5 reads and checks superblock, tables and root of a RAFS v5 bootstrap.
func (b *Bootstrap) loadV5() error {
	p, err := b.view("superblock", 0, disk.V5SuperblockSize)
	if err != nil {
		return err
	}
	s := new(disk.V5Superblock)
	s.Decode(p)
	b.v5 = s
	b.ext.Flags, b.ext.ChunkSize = s.Flags, s.ChunkSize
	b.blkBits, b.blk = disk.BlockBits, blockSize
	switch {
	case s.Version != disk.V5Version:
		return unsupported("superblock", "version", 4, "%#x rather than %#x", s.Version, disk.V5Version)
	case s.Size != disk.V5SuperblockSize:
		return corrupt("superblock", "sb_size", 8, "%d rather than %d", s.Size, disk.V5SuperblockSize)
	case b.size%disk.V5Align != 0 || b.size > disk.V5MaxSize:
		return corrupt("superblock", "", -1, "a size of %d bytes is no multiple of %d or above %d", b.size, disk.V5Align, disk.V5MaxSize)
	}
	if err := checkFlags(s.Flags, s.ChunkSize, "superblock", 16, 12); err != nil {
		return err
	}
	if s.Flags&(disk.FlagInlinedDigests|disk.FlagEncryptAES) != 0 {
		return unsupported("superblock", "flags", 16, "%#x is not for RAFS v5", s.Flags)
	}
	if s.Names == 0 || s.Inodes == 0 || s.Inodes > uint64(s.Names) {
		return corrupt("superblock", "inodes_count", 24, "%d inodes with %d names", s.Inodes, s.Names)
	}
	if err := b.checkRangesV5(); err != nil {
		return err
	}
	b.info = Info{
		Version: 5, Size: b.size, BlockSize: blockSize, ChunkSize: s.ChunkSize, Flags: s.Flags,
		Digester: flagsDigester(s.Flags), Compressor: flagsCompressor(s.Flags), Inodes: uint64(s.Names), RootNid: 1,
	}
	if err := b.loadBlobsV5(); err != nil {
		return err
	}
	for i := range b.blobs {
		b.info.Chunks += uint64(b.blobs[i].ChunkCount)
	}
	root, err := b.Inode(b.info.RootNid)
	if err != nil {
		return err
	}
	if !root.IsDir() {
		return corrupt("inode", "i_mode", root.v5.off+60, "the root is no directory: %#o", root.Mode)
	}
	return nil
}

// v5Tables lists the tables of a RAFS v5 bootstrap.
func (b *Bootstrap) v5Tables() []tableRange {
	s := b.v5
	table := func(field string, at int64, off, n uint64) tableRange { return tableRange{field, at, off, off + n} }
	return []tableRange{
		table("inode_table_offset", 32, s.InodeTableOff, 4*uint64(s.Names)),
		table("prefetch_table_offset", 40, s.PrefetchOff, 4*uint64(s.Prefetches)),
		table("blob_table_offset", 48, s.BlobTableOff, uint64(s.BlobTableSize)),
		table("extended_blob_table_offset", 72, s.ExtBlobOff, disk.V5BlobSize*uint64(s.Blobs)),
	}
}

// checkRangesV5 checks that the tables lie in the file and apart.
func (b *Bootstrap) checkRangesV5() error {
	used := []tableRange{{"superblock", 0, 0, disk.V5SuperblockSize}}
	for _, t := range b.v5Tables() {
		n := t.end - t.off
		if n == 0 {
			continue
		}
		if t.off > uint64(b.size) || n > uint64(b.size)-t.off || t.off%disk.V5Align != 0 {
			return corrupt("superblock", t.field, t.fieldOff, "%d bytes at %d do not fit the bootstrap of %d bytes", n, t.off, b.size)
		}
		for _, u := range used {
			if t.off < u.end && u.off < t.end {
				return corrupt("superblock", t.field, t.fieldOff, "%d to %d overlaps %s, %d to %d", t.off, t.end, u.field, u.off, u.end)
			}
		}
		used = append(used, t)
	}
	return nil
}

// loadBlobsV5 reads blob table and extended blob table.
func (b *Bootstrap) loadBlobsV5() error {
	s := b.v5
	at := int64(s.BlobTableOff)
	table, err := b.view("blob table", at, int64(s.BlobTableSize))
	if err != nil {
		return err
	}
	seen := map[string]int{}
	for pos := 0; len(table)-pos > disk.V5BlobHeadSize; {
		off := at + int64(pos)
		rest := table[pos+disk.V5BlobHeadSize:]
		n := bytes.IndexByte(rest, 0)
		if n < 0 {
			n = len(rest)
		}
		id := string(rest[:n])
		if bad := checkBlobID(id); bad != "" {
			return corrupt("blob table", "blob_id", off+disk.V5BlobHeadSize, "%.80q %s", id, bad)
		}
		if j, dup := seen[id]; dup {
			return corrupt("blob table", "blob_id", off, "blobs %d and %d are both %s", j, len(b.blobs), id)
		}
		if len(b.blobs) == disk.MaxBlobs {
			return unsupported("blob table", "", off, "more than %d blobs", disk.MaxBlobs)
		}
		seen[id] = len(b.blobs)
		b.blobs = append(b.blobs, Blob{
			Index: uint32(len(b.blobs)), ID: id, ChunkSize: s.ChunkSize, v5: true,
			Compressor: b.info.Compressor, Digester: b.info.Digester,
		})
		pos += min(disk.V5BlobHeadSize+n+1, len(table)-pos)
	}
	if s.ExtBlobOff == 0 || s.Blobs == 0 && len(b.blobs) > 0 {
		return b.measureBlobsV5()
	}
	if int(s.Blobs) != len(b.blobs) {
		return corrupt("superblock", "extended_blob_table_entries", 68, "%d for %d blobs", s.Blobs, len(b.blobs))
	}
	for i := range b.blobs {
		if err := b.extendBlobV5(&b.blobs[i]); err != nil {
			return err
		}
	}
	return nil
}

// v5BlobFeatures are the features that blobs of RAFS v5 may have.
const v5BlobFeatures = disk.BlobAligned | disk.BlobInlinedMeta | disk.BlobChunkDict | disk.BlobHasTarHeader | disk.BlobHasTOC | disk.BlobCapTarTOC

func (b *Bootstrap) extendBlobV5(bl *Blob) error {
	off := int64(b.v5.ExtBlobOff) + int64(bl.Index)*disk.V5BlobSize
	p, err := b.view("extended blob table", off, disk.V5BlobSize)
	if err != nil {
		return err
	}
	var e disk.V5Blob
	e.Decode(p)
	f := e.Features
	switch {
	case f&disk.BlobIncompatible&^disk.BlobIncompatibleKnown != 0 || f&disk.BlobInternal != 0:
		return unsupported("extended blob table", "features", off+4, "unknown bits in %#x", f)
	case f&disk.BlobIncompatible&^v5BlobFeatures != 0:
		return unsupported("extended blob table", "features", off+4, "%#x is not for RAFS v5", f)
	case e.ChunkCount > disk.MaxChunksPerBlob:
		return corrupt("extended blob table", "chunk_count", off, "%d is above %d", e.ChunkCount, disk.MaxChunksPerBlob)
	case e.UncompressedSize > maxBlobUncompressed:
		return corrupt("extended blob table", "uncompressed_size", off+8, "%d is above the limit", e.UncompressedSize)
	case e.CompressedSize > maxBlobCompressed || f&disk.BlobHasTarHeader != 0 && e.CompressedSize < disk.TarHeaderSize:
		return corrupt("extended blob table", "compressed_size", off+16, "%d is above the limit or leaves no room for data", e.CompressedSize)
	}
	bl.ChunkCount, bl.Features = e.ChunkCount, f
	bl.UncompressedSize, bl.CompressedSize = e.UncompressedSize, e.CompressedSize
	return nil
}

// measureBlobsV5 finds out from the chunks what an extended blob table would
// say: images of very old builders have none.
func (b *Bootstrap) measureBlobsV5() error {
	return b.eachRecordV5(func(_ uint32, off int64, r *disk.ChunkRecord) error {
		if uint64(r.BlobIndex) >= uint64(len(b.blobs)) {
			return corrupt("chunk", "blob_index", off+32, "%d of %d blobs", r.BlobIndex, len(b.blobs))
		}
		if r.Index >= disk.MaxChunksPerBlob || r.UncompressedOff > maxBlobUncompressed-maxChunkSize || r.CompressedOff > maxBlobCompressed-maxChunkSize ||
			r.UncompressedSize > maxChunkSize || r.CompressedSize > 2*maxChunkSize {
			return corrupt("chunk", "", off, "chunk %d of blob %d is above the limits", r.Index, r.BlobIndex)
		}
		bl := &b.blobs[r.BlobIndex]
		bl.ChunkCount = max(bl.ChunkCount, r.Index+1)
		bl.UncompressedSize = max(bl.UncompressedSize, r.UncompressedOff+uint64(r.UncompressedSize))
		bl.CompressedSize = max(bl.CompressedSize, r.CompressedOff+uint64(r.CompressedSize))
		return nil
	})
}

// eachRecordV5 calls fn for every chunk record of every name, with the number
// that recordOff takes. Records that several names would share are an error,
// so that it takes no more time than the bootstrap has bytes.
func (b *Bootstrap) eachRecordV5(fn func(ref uint32, off int64, r *disk.ChunkRecord) error) error {
	budget := b.size
	for index := uint64(1); index <= uint64(b.v5.Names); index++ {
		r, err := b.recordV5(index)
		if err != nil {
			return err
		}
		i, err := b.inodeV5(&r)
		if err != nil {
			return err
		}
		n := b.chunkCount(&i) * disk.ChunkRecordSize
		if !i.IsRegular() || n == 0 {
			continue
		}
		if budget -= n; budget < 0 {
			return corrupt("inode", "", r.off, "chunks of inode %d overlap others", i.Nid)
		}
		off := b.indexOff(&i)
		p, err := b.view("chunk", off, n)
		if err != nil {
			return err
		}
		for ; len(p) > 0; p, off = p[disk.ChunkRecordSize:], off+disk.ChunkRecordSize {
			var x disk.ChunkRecord
			x.Decode(p)
			if err := fn(uint32(off/disk.V5Align), off, &x); err != nil {
				return err
			}
		}
	}
	return nil
}
