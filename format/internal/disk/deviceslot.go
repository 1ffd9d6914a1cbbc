// SPDX-License-Identifier: Apache-2.0

package disk

// DeviceSlotSize is the size of DeviceSlot in bytes.
const DeviceSlotSize = 128

// DeviceSlot is one EROFS device slot; slot i belongs to blob table entry i.
type DeviceSlot struct {
	Tag           [64]byte // blob id, ASCII, zero padded
	Blocks        uint32   // the blob's uncompressed size in blocks, not 0
	MappedBlkaddr uint32   // block of the device in the flat address space
}

// Decode fills s from b[:DeviceSlotSize].
func (s *DeviceSlot) Decode(b []byte) {
	_ = b[DeviceSlotSize-1]
	copy(s.Tag[:], b[0:64])
	s.Blocks = le.Uint32(b[64:])
	s.MappedBlkaddr = le.Uint32(b[68:])
}

// Append appends the DeviceSlotSize bytes of s to b.
func (s *DeviceSlot) Append(b []byte) []byte {
	b = append(b, s.Tag[:]...)
	b = le.AppendUint32(b, s.Blocks)
	b = le.AppendUint32(b, s.MappedBlkaddr)
	return zeros(b, 56)
}
