// SPDX-License-Identifier: Apache-2.0

package disk

// Sizes of the two kinds of chunk info in bytes.
const (
	ChunkInfoV1Size = 16
	ChunkInfoV2Size = 24
)

// Limits that the fields' widths set.
const (
	MaxChunkSize       = 1 << 24 // bytes
	MaxCompressedOff   = 1 << 40
	MaxUncompressedOff = 1 << 44
)

// Bits of ChunkInfoV2.Flags.
const (
	InfoCompressed = 0x1
	InfoZran       = 0x2
	InfoBatch      = 0x4
	InfoEncrypted  = 0x8
	InfoCRC32C     = 0x10 // Data is the CRC-32C of the uncompressed chunk
	InfoKnown      = 0x1F
)

// ChunkInfoV1 is the 16-byte chunk info: a chunk is compressed if and only if
// its two sizes differ.
type ChunkInfoV1 struct {
	UncompressedOff  uint64 // multiple of 4096
	UncompressedSize uint32 // 1 … 1<<24
	CompressedOff    uint64
	CompressedSize   uint32 // 1 … 1<<24
}

// Decode fills c from b[:ChunkInfoV1Size].
func (c *ChunkInfoV1) Decode(b []byte) {
	_ = b[ChunkInfoV1Size-1]
	u, s := le.Uint64(b[0:]), le.Uint64(b[8:])
	c.UncompressedOff = u & 0x00000FFFFFFFF000
	c.UncompressedSize = uint32(u>>44) + uint32(u>>8&0xF)<<20 + 1
	c.CompressedOff = s & 0x000000FFFFFFFFFF
	c.CompressedSize = uint32(s>>44) + uint32(s>>40&0xF)<<20 + 1
}

// Append appends the ChunkInfoV1Size bytes of c to b.
func (c *ChunkInfoV1) Append(b []byte) []byte {
	us, cs := uint64(c.UncompressedSize-1), uint64(c.CompressedSize-1)
	b = le.AppendUint64(b, us<<44|us>>20&0xF<<8|c.UncompressedOff&0x00000FFFFFFFF000)
	return le.AppendUint64(b, cs<<44|cs>>20&0xF<<40|c.CompressedOff&0x000000FFFFFFFFFF)
}

// ChunkInfoV2 is the 24-byte chunk info of blobs with batches, zran contexts
// or encryption.
type ChunkInfoV2 struct {
	UncompressedOff  uint64 // multiple of 4096
	UncompressedSize uint32 // 1 … 1<<24
	Flags            uint8  // Info… bits
	CompressedOff    uint64
	CompressedSize   uint32 // 0 for members of a batch
	Data             uint64 // batch, zran: context index << 32 | offset in the unit; else CRC-32C
}

// Decode fills c from b[:ChunkInfoV2Size].
func (c *ChunkInfoV2) Decode(b []byte) {
	_ = b[ChunkInfoV2Size-1]
	u, s := le.Uint64(b[0:]), le.Uint64(b[8:])
	c.UncompressedOff = u & 0xFFFFFFFF << 12
	c.UncompressedSize = uint32(u>>32&0xFFFFFF) + 1
	c.Flags = uint8(u >> 56)
	c.CompressedOff = s & 0xFFFFFFFFFF
	c.CompressedSize = uint32(s >> 40)
	c.Data = le.Uint64(b[16:])
}

// Append appends the ChunkInfoV2Size bytes of c to b.
func (c *ChunkInfoV2) Append(b []byte) []byte {
	b = le.AppendUint64(b, c.UncompressedOff>>12&0xFFFFFFFF|
		uint64(c.UncompressedSize-1)&0xFFFFFF<<32|uint64(c.Flags)<<56)
	b = le.AppendUint64(b, c.CompressedOff&0xFFFFFFFFFF|uint64(c.CompressedSize)<<40)
	return le.AppendUint64(b, c.Data)
}
