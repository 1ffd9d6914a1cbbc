// SPDX-License-Identifier: Apache-2.0

package disk

// Sizes of the two kinds of inode, and of the unit of nids, in bytes.
const (
	InodeCompactSize  = 32
	InodeExtendedSize = 64
	NidSize           = 32
)

// Parts of an inode's Format: bit 0 tells the kind, bits 1 to 3 the layout.
const (
	FormatExtended    = 0x1
	FormatLayoutShift = 1
	FormatLayoutMask  = 0x7
	FormatKnown       = 0xF

	LayoutFlatPlain  = 0 // data in whole blocks at RawBlkaddr
	LayoutFlatInline = 2 // the tail lies behind the xattrs
	LayoutChunkBased = 4 // array of ChunkIndex behind the xattrs
)

// ChunkFormatIndexes in a chunk based inode's U says that ChunkIndexes are
// used; ChunkFormatBits are log2 of chunk size over block size.
const (
	ChunkFormatIndexes = 0x20
	ChunkFormatBits    = 0x1F
)

// InodeExtended is the 64-byte EROFS inode, the only kind that builders write.
type InodeExtended struct {
	Format      uint16
	XattrICount uint16 // 0, or 1 + (xattr area − 12)/4
	Mode        uint16 // st_mode: type and permissions
	Size        uint64
	U           uint32 // RawBlkaddr, rdev or chunk format, by layout and type
	Ino         uint32
	UID         uint32
	GID         uint32
	Mtime       uint64 // seconds, signed
	MtimeNsec   uint32
	Nlink       uint32
}

// Decode fills i from b[:InodeExtendedSize].
func (i *InodeExtended) Decode(b []byte) {
	_ = b[InodeExtendedSize-1]
	i.Format = le.Uint16(b[0:])
	i.XattrICount = le.Uint16(b[2:])
	i.Mode = le.Uint16(b[4:])
	i.Size = le.Uint64(b[8:])
	i.U = le.Uint32(b[16:])
	i.Ino = le.Uint32(b[20:])
	i.UID = le.Uint32(b[24:])
	i.GID = le.Uint32(b[28:])
	i.Mtime = le.Uint64(b[32:])
	i.MtimeNsec = le.Uint32(b[40:])
	i.Nlink = le.Uint32(b[44:])
}

// Append appends the InodeExtendedSize bytes of i to b.
func (i *InodeExtended) Append(b []byte) []byte {
	b = le.AppendUint16(b, i.Format)
	b = le.AppendUint16(b, i.XattrICount)
	b = le.AppendUint16(b, i.Mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, i.Size)
	b = le.AppendUint32(b, i.U)
	b = le.AppendUint32(b, i.Ino)
	b = le.AppendUint32(b, i.UID)
	b = le.AppendUint32(b, i.GID)
	b = le.AppendUint64(b, i.Mtime)
	b = le.AppendUint32(b, i.MtimeNsec)
	b = le.AppendUint32(b, i.Nlink)
	return zeros(b, 16)
}

// InodeCompact is the 32-byte EROFS inode. Its mtime is the superblock's
// build time.
type InodeCompact struct {
	Format      uint16
	XattrICount uint16
	Mode        uint16
	Nlink       uint16
	Size        uint32
	U           uint32
	Ino         uint32
	UID         uint16
	GID         uint16
}

// Decode fills i from b[:InodeCompactSize].
func (i *InodeCompact) Decode(b []byte) {
	_ = b[InodeCompactSize-1]
	i.Format = le.Uint16(b[0:])
	i.XattrICount = le.Uint16(b[2:])
	i.Mode = le.Uint16(b[4:])
	i.Nlink = le.Uint16(b[6:])
	i.Size = le.Uint32(b[8:])
	i.U = le.Uint32(b[16:])
	i.Ino = le.Uint32(b[20:])
	i.UID = le.Uint16(b[24:])
	i.GID = le.Uint16(b[26:])
}

// Append appends the InodeCompactSize bytes of i to b.
func (i *InodeCompact) Append(b []byte) []byte {
	b = le.AppendUint16(b, i.Format)
	b = le.AppendUint16(b, i.XattrICount)
	b = le.AppendUint16(b, i.Mode)
	b = le.AppendUint16(b, i.Nlink)
	b = le.AppendUint32(b, i.Size)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, i.U)
	b = le.AppendUint32(b, i.Ino)
	b = le.AppendUint16(b, i.UID)
	b = le.AppendUint16(b, i.GID)
	return zeros(b, 4)
}
