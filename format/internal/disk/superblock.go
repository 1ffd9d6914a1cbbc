// SPDX-License-Identifier: Apache-2.0

package disk

// Where the fixed structures lie in a RAFS v6 bootstrap, in bytes.
const (
	SuperblockOff    = 1024
	SuperblockSize   = 128
	ExtSuperblockOff = 1152
	DeviceSlotsOff   = 1408 // in slots of 128 bytes: 11
	DeviceSlotUnits  = 11

	// Alignment is what builders round all tables to, whatever the block size.
	Alignment = 4096
)

// Values of the superblock's fields that RAFS v6 fixes.
const (
	Magic           = 0xE0F5E1E2
	FeatureCompat   = 0x40000000 // marks RAFS v6
	FeatureIncompat = 0x0000000C // chunked files 0x4 + device table 0x8
	BlockBits       = 12
	BlockBitsTarfs  = 9
)

// Superblock is the EROFS superblock at byte 1024 (EROFS on-disk format).
type Superblock struct {
	Magic           uint32
	Checksum        uint32 // 0: RAFS v6 has no checksum feature
	FeatureCompat   uint32
	BlockBits       uint8 // log2 of the block size in bytes
	ExtSlots        uint8 // 0
	RootNid         uint16
	Inos            uint64 // number of tree entries, names of hard links included
	BuildTime       uint64
	BuildTimeNsec   uint32
	Blocks          uint32 // sum of the blocks of all device slots
	MetaBlkaddr     uint32 // block where nid 0 would be
	XattrBlkaddr    uint32 // 0: no shared xattrs
	UUID            [16]byte
	VolumeName      [16]byte
	FeatureIncompat uint32
	Lz4MaxDistance  uint16 // 0
	ExtraDevices    uint16 // number of device slots
	DevtSlotoff     uint16 // in 128-byte units: 11
}

// Decode fills s from b[:SuperblockSize].
func (s *Superblock) Decode(b []byte) {
	_ = b[SuperblockSize-1]
	s.Magic = le.Uint32(b[0:])
	s.Checksum = le.Uint32(b[4:])
	s.FeatureCompat = le.Uint32(b[8:])
	s.BlockBits = b[12]
	s.ExtSlots = b[13]
	s.RootNid = le.Uint16(b[14:])
	s.Inos = le.Uint64(b[16:])
	s.BuildTime = le.Uint64(b[24:])
	s.BuildTimeNsec = le.Uint32(b[32:])
	s.Blocks = le.Uint32(b[36:])
	s.MetaBlkaddr = le.Uint32(b[40:])
	s.XattrBlkaddr = le.Uint32(b[44:])
	copy(s.UUID[:], b[48:64])
	copy(s.VolumeName[:], b[64:80])
	s.FeatureIncompat = le.Uint32(b[80:])
	s.Lz4MaxDistance = le.Uint16(b[84:])
	s.ExtraDevices = le.Uint16(b[86:])
	s.DevtSlotoff = le.Uint16(b[88:])
}

// Append appends the SuperblockSize bytes of s to b.
func (s *Superblock) Append(b []byte) []byte {
	b = le.AppendUint32(b, s.Magic)
	b = le.AppendUint32(b, s.Checksum)
	b = le.AppendUint32(b, s.FeatureCompat)
	b = append(b, s.BlockBits, s.ExtSlots)
	b = le.AppendUint16(b, s.RootNid)
	b = le.AppendUint64(b, s.Inos)
	b = le.AppendUint64(b, s.BuildTime)
	b = le.AppendUint32(b, s.BuildTimeNsec)
	b = le.AppendUint32(b, s.Blocks)
	b = le.AppendUint32(b, s.MetaBlkaddr)
	b = le.AppendUint32(b, s.XattrBlkaddr)
	b = append(b, s.UUID[:]...)
	b = append(b, s.VolumeName[:]...)
	b = le.AppendUint32(b, s.FeatureIncompat)
	b = le.AppendUint16(b, s.Lz4MaxDistance)
	b = le.AppendUint16(b, s.ExtraDevices)
	b = le.AppendUint16(b, s.DevtSlotoff)
	return zeros(b, 38)
}
