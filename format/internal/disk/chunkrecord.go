// SPDX-License-Identifier: Apache-2.0

package disk

// ChunkRecordSize is the size of ChunkRecord in bytes.
const ChunkRecordSize = 80

// Bits of ChunkRecord.Flags.
const (
	RecordCompressed = 0x1
	RecordHole       = 0x2
	RecordEncrypted  = 0x4
	RecordBatch      = 0x8
	RecordCRC32C     = 0x10 // CRC32C is valid
	RecordKnown      = 0x1F
)

// ChunkRecord is one record of the bootstrap's chunk table. Records are
// sorted by digest, then blob index.
type ChunkRecord struct {
	Digest           [32]byte // of the uncompressed chunk
	BlobIndex        uint32
	Flags            uint32 // Record… bits
	CompressedSize   uint32 // 0 for members of a batch
	UncompressedSize uint32
	CompressedOff    uint64 // 0 for members of a batch
	UncompressedOff  uint64
	FileOff          uint64 // in some file that has the chunk
	Index            uint32 // chunk number in the blob
	CRC32C           uint32 // of the uncompressed data; 0 from older builders
}

// Decode fills r from b[:ChunkRecordSize].
func (r *ChunkRecord) Decode(b []byte) {
	_ = b[ChunkRecordSize-1]
	copy(r.Digest[:], b[0:32])
	r.BlobIndex = le.Uint32(b[32:])
	r.Flags = le.Uint32(b[36:])
	r.CompressedSize = le.Uint32(b[40:])
	r.UncompressedSize = le.Uint32(b[44:])
	r.CompressedOff = le.Uint64(b[48:])
	r.UncompressedOff = le.Uint64(b[56:])
	r.FileOff = le.Uint64(b[64:])
	r.Index = le.Uint32(b[72:])
	r.CRC32C = le.Uint32(b[76:])
}

// Append appends the ChunkRecordSize bytes of r to b.
func (r *ChunkRecord) Append(b []byte) []byte {
	b = append(b, r.Digest[:]...)
	b = le.AppendUint32(b, r.BlobIndex)
	b = le.AppendUint32(b, r.Flags)
	b = le.AppendUint32(b, r.CompressedSize)
	b = le.AppendUint32(b, r.UncompressedSize)
	b = le.AppendUint64(b, r.CompressedOff)
	b = le.AppendUint64(b, r.UncompressedOff)
	b = le.AppendUint64(b, r.FileOff)
	b = le.AppendUint32(b, r.Index)
	return le.AppendUint32(b, r.CRC32C)
}
