// SPDX-License-Identifier: Apache-2.0

package disk

// BlobEntrySize is the size of BlobEntry in bytes.
const BlobEntrySize = 256

// Bits of BlobEntry.Features and BlobHeader.Features.
const (
	BlobAligned        = 0x1 // uncompressed chunk offsets are multiples of 4096
	BlobInlinedMeta    = 0x2 // the bootstrap is inside the blob
	BlobChunkInfoV2    = 0x4 // ChunkInfoV2 rather than V1
	BlobZran           = 0x8
	BlobSeparate       = 0x10 // chunk data and chunk infos in different objects
	BlobInlinedDigests = 0x20
	BlobTarfs          = 0x40
	BlobBatch          = 0x80
	BlobEncrypted      = 0x100
	BlobChunkDict      = 0x200 // synthetic dictionary blob
	BlobPrefetchFiles  = 0x400
	BlobExternal       = 0x800
	BlobHasTarHeader   = 0x10000000
	BlobHasTOC         = 0x20000000
	BlobCapTarTOC      = 0x40000000
	BlobInternal       = 0x80000000 // never on disk

	// BlobIncompatible is the part of the features in which unknown bits
	// must be refused; BlobIncompatibleKnown are the known ones.
	BlobIncompatible      = 0xFFFF
	BlobIncompatibleKnown = 0x0FFF
)

// Values of BlobEntry.CipherAlgo.
const (
	CipherNone      = 0
	CipherAES128XTS = 1
)

// BlobEntry is one entry of the RAFS v6 blob table.
type BlobEntry struct {
	ID               [64]byte // printable ASCII, zero padded
	Index            uint32   // position in the table
	ChunkSize        uint32   // bytes, as in the superblock
	ChunkCount       uint32   // chunks in the blob, used or not
	Compressor       uint32
	Digester         uint32
	Features         uint32 // Blob… bits
	CompressedSize   uint64
	UncompressedSize uint64
	TOCSize          uint32 // TOC entries and their tar header; 0: unknown
	CICompressor     uint32
	CIOff            uint64 // of the chunk-info array in the blob
	CICompressedSize uint64
	CISize           uint64 // uncompressed, with contexts
	TOCDigest        [32]byte
	MetaDigest       [32]byte // reference blobs: SHA-256 of the side file; encrypted blobs: key
	MetaSize         uint64   // reference blobs: size of the side file; encrypted blobs: IV
	CipherIV         uint64   // second half of the IV
	CipherAlgo       uint32   // Cipher… value
}

// Decode fills e from b[:BlobEntrySize].
func (e *BlobEntry) Decode(b []byte) {
	_ = b[BlobEntrySize-1]
	copy(e.ID[:], b[0:64])
	e.Index = le.Uint32(b[64:])
	e.ChunkSize = le.Uint32(b[68:])
	e.ChunkCount = le.Uint32(b[72:])
	e.Compressor = le.Uint32(b[76:])
	e.Digester = le.Uint32(b[80:])
	e.Features = le.Uint32(b[84:])
	e.CompressedSize = le.Uint64(b[88:])
	e.UncompressedSize = le.Uint64(b[96:])
	e.TOCSize = le.Uint32(b[104:])
	e.CICompressor = le.Uint32(b[108:])
	e.CIOff = le.Uint64(b[112:])
	e.CICompressedSize = le.Uint64(b[120:])
	e.CISize = le.Uint64(b[128:])
	copy(e.TOCDigest[:], b[136:168])
	copy(e.MetaDigest[:], b[168:200])
	e.MetaSize = le.Uint64(b[200:])
	e.CipherIV = le.Uint64(b[208:])
	e.CipherAlgo = le.Uint32(b[216:])
}

// Append appends the BlobEntrySize bytes of e to b.
func (e *BlobEntry) Append(b []byte) []byte {
	b = append(b, e.ID[:]...)
	b = le.AppendUint32(b, e.Index)
	b = le.AppendUint32(b, e.ChunkSize)
	b = le.AppendUint32(b, e.ChunkCount)
	b = le.AppendUint32(b, e.Compressor)
	b = le.AppendUint32(b, e.Digester)
	b = le.AppendUint32(b, e.Features)
	b = le.AppendUint64(b, e.CompressedSize)
	b = le.AppendUint64(b, e.UncompressedSize)
	b = le.AppendUint32(b, e.TOCSize)
	b = le.AppendUint32(b, e.CICompressor)
	b = le.AppendUint64(b, e.CIOff)
	b = le.AppendUint64(b, e.CICompressedSize)
	b = le.AppendUint64(b, e.CISize)
	b = append(b, e.TOCDigest[:]...)
	b = append(b, e.MetaDigest[:]...)
	b = le.AppendUint64(b, e.MetaSize)
	b = le.AppendUint64(b, e.CipherIV)
	b = le.AppendUint32(b, e.CipherAlgo)
	return zeros(b, 36)
}
