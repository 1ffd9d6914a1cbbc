// SPDX-License-Identifier: Apache-2.0

package disk

// ChunkIndexSize is the size of ChunkIndex in bytes.
const ChunkIndexSize = 8

// Limits that the fields' widths set.
const (
	MaxBlobs         = 254     // blob index + 1 fits a byte
	MaxChunksPerBlob = 1 << 24 // chunk numbers have 24 bits
)

// ChunkIndex points from a file to one of its chunks (RAFS v6 use of the
// EROFS chunk index).
type ChunkIndex struct {
	Chunk     uint32 // number within the blob, 24 bits
	BlobPlus1 uint8  // blob index + 1; 0: hole, never written
	Blkaddr   uint32 // uncompressed offset in the blob, in blocks
}

// Decode fills c from b[:ChunkIndexSize].
func (c *ChunkIndex) Decode(b []byte) {
	_ = b[ChunkIndexSize-1]
	hi := le.Uint16(b[2:])
	c.Chunk = uint32(le.Uint16(b[0:])) | uint32(hi>>8)<<16
	c.BlobPlus1 = uint8(hi)
	c.Blkaddr = le.Uint32(b[4:])
}

// Append appends the ChunkIndexSize bytes of c to b.
func (c *ChunkIndex) Append(b []byte) []byte {
	b = le.AppendUint16(b, uint16(c.Chunk))
	b = le.AppendUint16(b, uint16(c.Chunk>>16)<<8|uint16(c.BlobPlus1))
	return le.AppendUint32(b, c.Blkaddr)
}
