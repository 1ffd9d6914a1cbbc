// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"

	"lighter/format/internal/disk"
)

// Blob is one entry of the blob table. In RAFS v5 blobs have no chunk infos, and
// compressor and digester are those of the image.
type Blob struct {
	Index            uint32
	ID               string // hex SHA-256 of the blob as a rule; 64 × "x" in a layer's own bootstrap
	ChunkCount       uint32 // all chunks of the blob, used by this image or not
	ChunkSize        uint32 // bytes
	Compressor       Compressor
	Digester         Digester
	Features         uint32
	CompressedSize   uint64 // bytes; of which part of the blob depends on the build
	UncompressedSize uint64 // bytes of the blob's uncompressed address space

	// The chunk-info array, compressed as one unit, with its header behind it.
	CIOff            uint64
	CICompressedSize uint64
	CISize           uint64
	CICompressor     Compressor

	TOCSize    uint32 // bytes; 0: not known
	TOCDigest  [32]byte
	MetaDigest [32]byte // reference blobs: SHA-256 of the object with the chunk infos
	MetaSize   uint64   // reference blobs: its size in bytes

	MappedOff int64 // where the blob begins in the flat address space of device and bootstrap, in bytes

	cipher *blobCipher // nil: not encrypted

	v5 bool // the blob has no parts but the chunks and, if it is a layer, a bootstrap
}

// PlaceholderID stands for the blob's own id in a layer's own bootstrap.
const PlaceholderID = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

// IsZran reports whether the chunks lie in a gzip archive that was not made
// for random access.
func (bl Blob) IsZran() bool { return bl.Features&disk.BlobZran != 0 }

// IsSeparate reports whether the chunk infos are in another object than the
// chunks: the object with digest MetaDigest.
func (bl Blob) IsSeparate() bool { return bl.Features&disk.BlobSeparate != 0 }

// isOwnLayer reports whether this is the entry of a reference in the bootstrap
// of the layer itself, which does not know its own digest.
func (bl Blob) isOwnLayer() bool {
	return bl.Features&disk.BlobInlinedMeta != 0 && bl.MetaDigest == [32]byte{} && bl.MetaSize == 0
}

// IsBatch reports whether small chunks are compressed together.
func (bl Blob) IsBatch() bool { return bl.Features&disk.BlobBatch != 0 }

// DataSize is the number of bytes at the beginning of the blob in which all
// chunks must lie.
func (bl Blob) DataSize() uint64 {
	switch {
	case bl.v5 && bl.Features&disk.BlobHasTarHeader != 0:
		return bl.CompressedSize - disk.TarHeaderSize
	case bl.Features&disk.BlobChunkDict != 0:
		return max(bl.CompressedSize, bl.CIOff)
	case bl.v5 || bl.Features&disk.BlobSeparate != 0 || bl.Features&disk.BlobCapTarTOC == 0:
		return bl.CompressedSize
	case bl.Features&disk.BlobHasTarHeader != 0:
		return bl.CIOff - disk.TarHeaderSize
	}
	return bl.CIOff
}

func (bl Blob) infoSize() int64 {
	if bl.Features&disk.BlobChunkInfoV2 != 0 {
		return disk.ChunkInfoV2Size
	}
	return disk.ChunkInfoV1Size
}

func (b *Bootstrap) loadBlobs() error {
	n := int(b.sb.ExtraDevices)
	b.blobs = make([]Blob, 0, n)
	seen := make(map[string]int, n)
	var blocks uint64
	for i := range n {
		off := int64(b.ext.BlobTableOff) + int64(i)*disk.BlobEntrySize
		p, err := b.view("blob table", off, disk.BlobEntrySize)
		if err != nil {
			return err
		}
		var e disk.BlobEntry
		e.Decode(p)
		bl, err := b.blob(i, off, &e)
		if err != nil {
			return err
		}
		slotOff := int64(disk.DeviceSlotsOff + i*disk.DeviceSlotSize)
		if p, err = b.view("device slot", slotOff, disk.DeviceSlotSize); err != nil {
			return err
		}
		var slot disk.DeviceSlot
		slot.Decode(p)
		switch {
		case slot.Tag != e.ID:
			return corrupt("device slot", "tag", slotOff, "blob %d has another id in the blob table", i)
		case slot.Blocks == 0 || uint64(slot.Blocks) != bl.UncompressedSize>>b.blkBits:
			return corrupt("device slot", "blocks", slotOff+64, "%d blocks for a blob of %d bytes", slot.Blocks, bl.UncompressedSize)
		}
		bl.MappedOff = int64(slot.MappedBlkaddr) << b.blkBits
		blocks += uint64(slot.Blocks)
		if j, dup := seen[bl.ID]; dup {
			return corrupt("blob table", "blob_id", off, "blobs %d and %d are both %s", j, i, bl.ID)
		}
		seen[bl.ID] = i
		b.blobs = append(b.blobs, bl)
	}
	if n > 0 && uint64(b.sb.Blocks) != blocks&0xFFFFFFFF && b.sb.Blocks != 4096 {
		return sbField("blocks", 36, b.sb.Blocks, blocks)
	}
	return nil
}

// Limits of a blob (RAFS v6).
const (
	maxBlobCompressed   = disk.MaxCompressedOff
	maxBlobUncompressed = disk.MaxUncompressedOff
)

// blob checks entry e, number i of the table, and returns it as a Blob.
func (b *Bootstrap) blob(i int, off int64, e *disk.BlobEntry) (Blob, error) {
	bad := func(field string, at int64, detail string, args ...any) (Blob, error) {
		return Blob{}, corrupt("blob table", field, off+at, detail, args...)
	}
	not := func(field string, at int64, detail string, args ...any) (Blob, error) {
		return Blob{}, unsupported("blob table", field, off+at, detail, args...)
	}
	id := disk.CString(e.ID[:])
	if len(bytes.Trim(e.ID[len(id):], "\x00")) != 0 {
		return bad("blob_id", 0, "%q is no id", e.ID[:])
	}
	if what := checkBlobID(id); what != "" {
		return bad("blob_id", 0, "%q %s", id, what)
	}
	count, f := uint64(e.ChunkCount), e.Features
	switch {
	case e.Index != uint32(i):
		return bad("blob_index", 64, "%d at position %d", e.Index, i)
	case e.ChunkSize != b.ext.ChunkSize:
		return bad("chunk_size", 68, "%d, but %d in the superblock", e.ChunkSize, b.ext.ChunkSize)
	case count == 0 || count > disk.MaxChunksPerBlob:
		return bad("chunk_count", 72, "%d is not within 1 to %d", count, disk.MaxChunksPerBlob)
	case !Compressor(e.Compressor).Valid():
		return not("compressor", 76, "%s", Compressor(e.Compressor))
	case !Digester(e.Digester).Valid():
		return not("digester", 80, "%s", Digester(e.Digester))
	case !Compressor(e.CICompressor).Valid():
		return not("ci_compressor", 108, "%s", Compressor(e.CICompressor))
	case f&disk.BlobIncompatible&^disk.BlobIncompatibleKnown != 0 || f&disk.BlobInternal != 0:
		return not("features", 84, "unknown bits in %#x", f)
	case f&(disk.BlobTarfs|disk.BlobExternal) != 0:
		return not("features", 84, "%#x: tarfs or external blob", f)
	case e.CipherAlgo > disk.CipherAES128XTS || (e.CipherAlgo != disk.CipherNone) != (f&disk.BlobEncrypted != 0):
		return not("cipher_algo", 216, "%d with features %#x", e.CipherAlgo, f)
	case f&disk.BlobEncrypted != 0 && f&(disk.BlobZran|disk.BlobSeparate) != 0:
		return not("features", 84, "%#x: an encrypted blob with data elsewhere", f)
	case f&disk.BlobAligned == 0:
		return bad("features", 84, "%#x: chunks are not aligned", f)
	case f&(disk.BlobBatch|disk.BlobZran|disk.BlobEncrypted) != 0 && f&disk.BlobChunkInfoV2 == 0:
		return bad("features", 84, "%#x: batches, zran or encryption without chunk infos of version 2", f)
	case f&disk.BlobBatch != 0 && f&disk.BlobZran != 0:
		return bad("features", 84, "%#x: both batches and zran", f)
	case e.CompressedSize > maxBlobCompressed:
		return bad("compressed_size", 88, "%d is above the limit", e.CompressedSize)
	case e.UncompressedSize > maxBlobUncompressed || e.UncompressedSize%disk.Alignment != 0 || e.UncompressedSize == 0:
		return bad("uncompressed_size", 96, "%d is above the limit or not aligned", e.UncompressedSize)
	case e.CIOff > maxBlobCompressed:
		return bad("ci_offset", 112, "%d is above the limit", e.CIOff)
	case e.CISize > maxCISize:
		return bad("ci_uncompressed_size", 128, "%d is above the limit of %d", e.CISize, maxCISize)
	case e.CICompressedSize > maxCISize:
		return bad("ci_compressed_size", 120, "%d is above the limit of %d", e.CICompressedSize, maxCISize)
	case f&disk.BlobChunkDict != 0: // made up from chunks of other blobs, whose infos lie there
	case e.CICompressedSize > e.CISize || e.CICompressedSize == 0:
		return bad("ci_compressed_size", 120, "%d for %d bytes", e.CICompressedSize, e.CISize)
	case f&disk.BlobChunkInfoV2 == 0 && e.CISize != count*disk.ChunkInfoV1Size:
		return bad("ci_uncompressed_size", 128, "%d bytes for %d chunks", e.CISize, count)
	case f&disk.BlobChunkInfoV2 != 0 && f&(disk.BlobBatch|disk.BlobZran) == 0 && e.CISize != count*disk.ChunkInfoV2Size,
		f&disk.BlobChunkInfoV2 != 0 && e.CISize < count*disk.ChunkInfoV2Size:
		return bad("ci_uncompressed_size", 128, "%d bytes for %d chunks", e.CISize, count)
	}
	if f&disk.BlobHasTarHeader != 0 && f&disk.BlobSeparate == 0 && e.CIOff < disk.TarHeaderSize {
		return bad("ci_offset", 112, "%d leaves no room for data", e.CIOff)
	}
	bl := Blob{
		Index: e.Index, ID: id, ChunkCount: e.ChunkCount, ChunkSize: e.ChunkSize,
		Compressor: Compressor(e.Compressor), Digester: Digester(e.Digester), Features: f,
		CompressedSize: e.CompressedSize, UncompressedSize: e.UncompressedSize,
		CIOff: e.CIOff, CICompressedSize: e.CICompressedSize, CISize: e.CISize, CICompressor: Compressor(e.CICompressor),
		TOCSize: e.TOCSize, TOCDigest: e.TOCDigest, MetaDigest: e.MetaDigest, MetaSize: e.MetaSize,
	}
	if f&disk.BlobEncrypted != 0 {
		bl.cipher, bl.MetaDigest, bl.MetaSize = newBlobCipher(e), [32]byte{}, 0
	}
	return bl, nil
}

// checkBlobID says what is wrong with an id, "" if nothing. Stores make paths
// of ids.
func checkBlobID(id string) string {
	if id == "" || id == "." || id == ".." || len(id) > len(disk.BlobEntry{}.ID) {
		return "is no id"
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' || c == '/' {
			return "has characters that no id may have"
		}
	}
	return ""
}

// blobEntryOff is where the blob table says sizes and features of a blob.
func (b *Bootstrap) blobEntryOff(index uint32) int64 {
	if b.v5 != nil {
		return int64(b.v5.ExtBlobOff) + int64(index)*disk.V5BlobSize
	}
	return int64(b.ext.BlobTableOff) + int64(index)*disk.BlobEntrySize
}
