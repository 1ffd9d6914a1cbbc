// SPDX-License-Identifier: Apache-2.0

package format

import (
	"errors"
	"fmt"
	"io"

	"lighter/format/internal/disk"
)

// Limits of a blob's chunk-info array: of its size, and of how much it may
// grow when inflated, beyond a first part that is always allowed. Infos of
// distinct chunks do not compress better than 1:8.
const (
	maxCISize      = 1 << 30 // bytes
	maxCIRatio     = 256
	freeCIInflated = 1 << 20 // bytes
)

// ChunkTable is a blob's own chunk-info array with its contexts: where each
// chunk lies in the blob (Nydus blob meta). It is immutable and safe for
// concurrent use. Infos are decoded when asked for.
type ChunkTable struct {
	bl       Blob
	infos    []byte // ChunkCount entries
	contexts []byte // contextCount entries, and what follows them
	count    uint32 // of contexts
	header   disk.BlobHeader
}

// ReadChunkTable reads the chunk infos of blob bl. blob must be the object
// that has them: the data blob, or for a blob with IsSeparate the object with
// digest MetaDigest. Memory is bounded by the object's size.
func ReadChunkTable(blob io.ReaderAt, size int64, bl Blob) (*ChunkTable, error) {
	if bl.CIOff > uint64(max(size, 0)) || bl.CICompressedSize+disk.BlobHeaderSize > uint64(size)-bl.CIOff {
		return nil, corrupt("chunk infos", "ci_offset", int64(bl.CIOff), "%d bytes and the header do not fit blob %s of %d bytes",
			bl.CICompressedSize, bl.ID, size)
	}
	stored := make([]byte, bl.CICompressedSize+disk.BlobHeaderSize)
	if n, err := blob.ReadAt(stored, int64(bl.CIOff)); n < len(stored) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read chunk infos of blob %s: %w", bl.ID, err)
	}
	packed, header := stored[:bl.CICompressedSize], stored[bl.CICompressedSize:]
	if bl.cipher != nil {
		var err error
		if header, err = bl.cipher.decrypt(header); err == nil {
			packed, err = bl.cipher.decrypt(packed)
		}
		if err != nil {
			return nil, &Error{Structure: "chunk infos", Offset: int64(bl.CIOff), Err: ErrCorrupt, Cause: err}
		}
	}
	var h disk.BlobHeader
	h.Decode(header)
	if err := checkHeader(&h, bl, int64(bl.CIOff+bl.CICompressedSize)); err != nil {
		return nil, err
	}
	infos, err := inflateInfos(packed, bl.CISize, Compressor(h.CICompressor), int64(bl.CIOff))
	if err != nil {
		return nil, err
	}
	return newChunkTable(infos, &h, bl)
}

// ParseChunkTable reads the chunk infos of blob bl from the content of an
// image/<hex>.blob.meta file: the inflated array, zeros up to a multiple of
// 4096, and the header. meta stays in use and must not change. Some converters
// ship the header alone for blobs of lz4_block: then only ReadChunkTable helps.
func ParseChunkTable(meta []byte, bl Blob) (*ChunkTable, error) {
	room := (bl.CISize + disk.Alignment - 1) &^ (disk.Alignment - 1)
	if uint64(len(meta)) != room+disk.BlobHeaderSize {
		return nil, corrupt("chunk infos", "", -1, "file of %d bytes for %d bytes of infos of blob %s", len(meta), bl.CISize, bl.ID)
	}
	var h disk.BlobHeader
	h.Decode(meta[room:])
	if err := checkHeader(&h, bl, int64(room)); err != nil {
		return nil, err
	}
	return newChunkTable(meta[:bl.CISize:bl.CISize], &h, bl)
}

// inflateInfos inflates a chunk-info array, which lies at off in its object.
func inflateInfos(stored []byte, size uint64, c Compressor, off int64) ([]byte, error) {
	if size == uint64(len(stored)) {
		c = None
	}
	if size > maxCISize || size > freeCIInflated+uint64(len(stored))*maxCIRatio {
		return nil, corrupt("chunk infos", "ci_uncompressed_size", off, "%d bytes out of %d are above the limit", size, len(stored))
	}
	infos := make([]byte, size)
	if err := c.decode(infos, stored); err != nil {
		return nil, &Error{Structure: "chunk infos", Offset: off, Err: ErrCorrupt, Cause: err}
	}
	return infos, nil
}

// checkHeader compares the header, which lies at off in its object, with the
// blob table. Features are not compared: merging changes them.
func checkHeader(h *disk.BlobHeader, bl Blob, off int64) error {
	bad := func(field string, at int64, got, want uint64) error {
		return corrupt("blob header", field, off+at, "%#x, but %#x in the blob table of %s", got, want, bl.ID)
	}
	ci := uint64(bl.CICompressor)
	if bl.CICompressedSize == bl.CISize {
		ci = 0
	}
	switch {
	case h.Magic != disk.BlobMagic:
		return corrupt("blob header", "magic", off, "%#x", h.Magic)
	case h.Magic2 != disk.BlobMagic:
		return corrupt("blob header", "magic2", off+4092, "%#x", h.Magic2)
	case h.ChunkCount != bl.ChunkCount:
		return bad("ci_entries", 12, uint64(h.ChunkCount), uint64(bl.ChunkCount))
	case uint64(h.CICompressor) != uint64(bl.CICompressor) && uint64(h.CICompressor) != ci:
		return bad("ci_compressor", 8, uint64(h.CICompressor), uint64(bl.CICompressor))
	case h.CIOff != bl.CIOff:
		return bad("ci_offset", 16, h.CIOff, bl.CIOff)
	case h.CICompressedSize != bl.CICompressedSize:
		return bad("ci_compressed_size", 24, h.CICompressedSize, bl.CICompressedSize)
	case h.CISize != bl.CISize:
		return bad("ci_uncompressed_size", 32, h.CISize, bl.CISize)
	}
	return nil
}

// newChunkTable finds the contexts in the inflated array.
func newChunkTable(all []byte, h *disk.BlobHeader, bl Blob) (*ChunkTable, error) {
	end := uint64(bl.ChunkCount) * uint64(bl.infoSize())
	if end > uint64(len(all)) {
		return nil, corrupt("chunk infos", "", int64(bl.CIOff), "%d bytes for %d chunks", len(all), bl.ChunkCount)
	}
	t := &ChunkTable{bl: bl, infos: all[:end:end], header: *h}
	if !bl.IsBatch() && !bl.IsZran() {
		return t, nil
	}
	total := uint64(len(all))
	const contextSize = disk.BatchContextSize // that of zran contexts, too
	switch {
	case h.ContextOff < end || h.ContextOff > total || h.ContextSize > total-h.ContextOff:
		return nil, corrupt("blob header", "context_offset", -1, "%d bytes at %d of %d", h.ContextSize, h.ContextOff, total)
	case uint64(h.ContextCount)*contextSize > h.ContextSize:
		return nil, corrupt("blob header", "context_count", -1, "%d contexts in %d bytes", h.ContextCount, h.ContextSize)
	}
	t.contexts, t.count = all[h.ContextOff:h.ContextOff+h.ContextSize], h.ContextCount
	return t, nil
}

// info returns the info of chunk index in the form of version 2.
func (t *ChunkTable) info(index uint32) (disk.ChunkInfoV2, error) {
	if index >= t.bl.ChunkCount {
		return disk.ChunkInfoV2{}, corrupt("chunk infos", "", -1, "chunk %d of %d of blob %s", index, t.bl.ChunkCount, t.bl.ID)
	}
	var v2 disk.ChunkInfoV2
	if t.bl.infoSize() == disk.ChunkInfoV2Size {
		v2.Decode(t.infos[int64(index)*disk.ChunkInfoV2Size:])
		return v2, nil
	}
	var v1 disk.ChunkInfoV1
	v1.Decode(t.infos[int64(index)*disk.ChunkInfoV1Size:])
	v2 = disk.ChunkInfoV2{UncompressedOff: v1.UncompressedOff, UncompressedSize: v1.UncompressedSize,
		CompressedOff: v1.CompressedOff, CompressedSize: v1.CompressedSize}
	if v1.CompressedSize != v1.UncompressedSize {
		v2.Flags = disk.InfoCompressed
	}
	return v2, nil
}

// infoPos is where info index lies in the inflated array, for messages.
func (t *ChunkTable) infoPos(index uint32) int64 { return int64(index) * t.bl.infoSize() }
