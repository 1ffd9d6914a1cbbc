// SPDX-License-Identifier: Apache-2.0

package disk

// ExtSuperblockSize is the size of ExtSuperblock in bytes.
const ExtSuperblockSize = 256

// Bits of ExtSuperblock.Flags.
const (
	FlagCompressorNone = 0x1
	FlagCompressorLZ4  = 0x2
	FlagDigestBlake3   = 0x4
	FlagDigestSHA256   = 0x8
	FlagExplicitOwner  = 0x10 // uid and gid of inodes mean something
	FlagHasXattr       = 0x20
	FlagCompressorGzip = 0x40
	FlagCompressorZstd = 0x80
	FlagInlinedDigests = 0x100 // every blob carries its digest array
	FlagTarfs          = 0x200
	FlagEncryptNone    = 0x1000000
	FlagEncryptAES     = 0x2000000
	FlagsCompatible    = 0xFC000000 // reserved bits that readers ignore
	FlagsKnown         = 0x30003FF
)

// ExtSuperblock is the RAFS v6 extension of the superblock at byte 1152.
type ExtSuperblock struct {
	Flags          uint64 // Flag… bits
	BlobTableOff   uint64
	BlobTableSize  uint32 // multiple of BlobEntrySize
	ChunkSize      uint32 // bytes, power of two
	ChunkTableOff  uint64
	ChunkTableSize uint64 // multiple of ChunkRecordSize
	PrefetchOff    uint64 // 0: none
	PrefetchSize   uint32 // bytes, 4 for each nid
}

// Decode fills s from b[:ExtSuperblockSize].
func (s *ExtSuperblock) Decode(b []byte) {
	_ = b[ExtSuperblockSize-1]
	s.Flags = le.Uint64(b[0:])
	s.BlobTableOff = le.Uint64(b[8:])
	s.BlobTableSize = le.Uint32(b[16:])
	s.ChunkSize = le.Uint32(b[20:])
	s.ChunkTableOff = le.Uint64(b[24:])
	s.ChunkTableSize = le.Uint64(b[32:])
	s.PrefetchOff = le.Uint64(b[40:])
	s.PrefetchSize = le.Uint32(b[48:])
}

// Append appends the ExtSuperblockSize bytes of s to b.
func (s *ExtSuperblock) Append(b []byte) []byte {
	b = le.AppendUint64(b, s.Flags)
	b = le.AppendUint64(b, s.BlobTableOff)
	b = le.AppendUint32(b, s.BlobTableSize)
	b = le.AppendUint32(b, s.ChunkSize)
	b = le.AppendUint64(b, s.ChunkTableOff)
	b = le.AppendUint64(b, s.ChunkTableSize)
	b = le.AppendUint64(b, s.PrefetchOff)
	b = le.AppendUint32(b, s.PrefetchSize)
	return zeros(b, 204)
}
