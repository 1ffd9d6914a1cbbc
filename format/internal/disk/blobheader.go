// SPDX-License-Identifier: Apache-2.0

package disk

// BlobHeaderSize is the size of BlobHeader in bytes.
const BlobHeaderSize = 4096

// BlobMagic begins and ends a BlobHeader.
const BlobMagic = 0xb10bb10b

// BlobHeader lies directly behind the stored chunk-info array of a blob.
type BlobHeader struct {
	Magic            uint32
	Features         uint32 // Blob… bits when the blob was built
	CICompressor     uint32 // 0 when stored as it is
	ChunkCount       uint32
	CIOff            uint64 // in the blob
	CICompressedSize uint64
	CISize           uint64 // uncompressed: infos, contexts, dictionaries
	ContextOff       uint64 // of the contexts in the uncompressed array; 0: none
	ContextSize      uint64 // contexts and dictionaries
	ContextCount     uint32
	Magic2           uint32 // at byte 4092
}

// Decode fills h from b[:BlobHeaderSize].
func (h *BlobHeader) Decode(b []byte) {
	_ = b[BlobHeaderSize-1]
	h.Magic = le.Uint32(b[0:])
	h.Features = le.Uint32(b[4:])
	h.CICompressor = le.Uint32(b[8:])
	h.ChunkCount = le.Uint32(b[12:])
	h.CIOff = le.Uint64(b[16:])
	h.CICompressedSize = le.Uint64(b[24:])
	h.CISize = le.Uint64(b[32:])
	h.ContextOff = le.Uint64(b[40:])
	h.ContextSize = le.Uint64(b[48:])
	h.ContextCount = le.Uint32(b[56:])
	h.Magic2 = le.Uint32(b[4092:])
}

// Append appends the BlobHeaderSize bytes of h to b.
func (h *BlobHeader) Append(b []byte) []byte {
	b = le.AppendUint32(b, h.Magic)
	b = le.AppendUint32(b, h.Features)
	b = le.AppendUint32(b, h.CICompressor)
	b = le.AppendUint32(b, h.ChunkCount)
	b = le.AppendUint64(b, h.CIOff)
	b = le.AppendUint64(b, h.CICompressedSize)
	b = le.AppendUint64(b, h.CISize)
	b = le.AppendUint64(b, h.ContextOff)
	b = le.AppendUint64(b, h.ContextSize)
	b = le.AppendUint32(b, h.ContextCount)
	b = zeros(b, 4032)
	return le.AppendUint32(b, h.Magic2)
}
