// SPDX-License-Identifier: Apache-2.0

package disk

// Sizes of the contexts that follow the chunk infos, in bytes.
const (
	BatchContextSize = 40
	ZranContextSize  = 40

	// MaxZranDict is the size of deflate's window.
	MaxZranDict = 32768
)

// BatchContext describes one batch: many small chunks compressed as one unit.
// The batch is stored as it is if and only if both sizes are equal.
type BatchContext struct {
	CompressedSize   uint32
	UncompressedSize uint32
}

// Decode fills c from b[:BatchContextSize].
func (c *BatchContext) Decode(b []byte) {
	_ = b[BatchContextSize-1]
	c.CompressedSize = le.Uint32(b[0:])
	c.UncompressedSize = le.Uint32(b[4:])
}

// Append appends the BatchContextSize bytes of c to b.
func (c *BatchContext) Append(b []byte) []byte {
	b = le.AppendUint32(b, c.CompressedSize)
	b = le.AppendUint32(b, c.UncompressedSize)
	return zeros(b, 32)
}

// ZranContext is a place in a gzip archive where inflating can begin.
type ZranContext struct {
	InOff   uint64 // in the archive
	OutOff  uint64 // in the decompressed stream
	DictOff uint64 // in the dictionary area that follows the contexts
	InLen   uint32
	OutLen  uint32
	DictLen uint32
	Byte    uint8 // the archive's byte before InOff, if Bits is not 0
	Bits    uint8 // 0 … 7 pending bits of Byte, its highest ones
}

// Decode fills c from b[:ZranContextSize].
func (c *ZranContext) Decode(b []byte) {
	_ = b[ZranContextSize-1]
	c.InOff = le.Uint64(b[0:])
	c.OutOff = le.Uint64(b[8:])
	c.DictOff = le.Uint64(b[16:])
	c.InLen = le.Uint32(b[24:])
	c.OutLen = le.Uint32(b[28:])
	c.DictLen = le.Uint32(b[32:])
	c.Byte = b[36]
	c.Bits = b[37]
}

// Append appends the ZranContextSize bytes of c to b.
func (c *ZranContext) Append(b []byte) []byte {
	b = le.AppendUint64(b, c.InOff)
	b = le.AppendUint64(b, c.OutOff)
	b = le.AppendUint64(b, c.DictOff)
	b = le.AppendUint32(b, c.InLen)
	b = le.AppendUint32(b, c.OutLen)
	b = le.AppendUint32(b, c.DictLen)
	return append(b, c.Byte, c.Bits, 0, 0)
}
