// SPDX-License-Identifier: Apache-2.0

package disk

// Sizes of the structures of RAFS v5 in bytes, and what their positions are
// multiples of.
const (
	V5SuperblockSize = 8192
	V5InodeSize      = 128
	V5BlobSize       = 64
	V5BlobHeadSize   = 8
	V5Align          = 8
)

// Values of the RAFS v5 superblock's fields.
const (
	V5Magic   = 0x52414653
	V5Version = 0x500
	// V5MaxSize is the longest bootstrap that readers accept, in bytes.
	V5MaxSize = 0x80000000
)

// V5Superblock begins a RAFS v5 bootstrap.
type V5Superblock struct {
	Magic         uint32
	Version       uint32
	Size          uint32 // V5SuperblockSize
	ChunkSize     uint32 // bytes, power of two
	Flags         uint64 // Flag… bits
	Inodes        uint64 // distinct ones
	InodeTableOff uint64 // offset: u32 for each name, an inode's offset / 8
	PrefetchOff   uint64 // offset: u32 inode numbers
	BlobTableOff  uint64 // offset
	Names         uint32 // entries of the inode table: each name of a hard link counted
	Prefetches    uint32 // entries of the prefetch table
	BlobTableSize uint32 // bytes, with padding
	Blobs         uint32 // entries of the extended blob table
	ExtBlobOff    uint64 // offset; 0 in very old images
}

// Decode fills s from b[:V5SuperblockSize].
func (s *V5Superblock) Decode(b []byte) {
	_ = b[V5SuperblockSize-1]
	s.Magic = le.Uint32(b[0:])
	s.Version = le.Uint32(b[4:])
	s.Size = le.Uint32(b[8:])
	s.ChunkSize = le.Uint32(b[12:])
	s.Flags = le.Uint64(b[16:])
	s.Inodes = le.Uint64(b[24:])
	s.InodeTableOff = le.Uint64(b[32:])
	s.PrefetchOff = le.Uint64(b[40:])
	s.BlobTableOff = le.Uint64(b[48:])
	s.Names = le.Uint32(b[56:])
	s.Prefetches = le.Uint32(b[60:])
	s.BlobTableSize = le.Uint32(b[64:])
	s.Blobs = le.Uint32(b[68:])
	s.ExtBlobOff = le.Uint64(b[72:])
}

// Append appends the V5SuperblockSize bytes of s to b.
func (s *V5Superblock) Append(b []byte) []byte {
	b = le.AppendUint32(b, s.Magic)
	b = le.AppendUint32(b, s.Version)
	b = le.AppendUint32(b, s.Size)
	b = le.AppendUint32(b, s.ChunkSize)
	b = le.AppendUint64(b, s.Flags)
	b = le.AppendUint64(b, s.Inodes)
	b = le.AppendUint64(b, s.InodeTableOff)
	b = le.AppendUint64(b, s.PrefetchOff)
	b = le.AppendUint64(b, s.BlobTableOff)
	b = le.AppendUint32(b, s.Names)
	b = le.AppendUint32(b, s.Prefetches)
	b = le.AppendUint32(b, s.BlobTableSize)
	b = le.AppendUint32(b, s.Blobs)
	b = le.AppendUint64(b, s.ExtBlobOff)
	return zeros(b, V5SuperblockSize-80)
}

// Bits of V5Inode.Flags.
const (
	V5Symlink  = 0x1
	V5HardLink = 0x2 // one of several names; not set by all builders
	V5HasXattr = 0x4
	V5HasHole  = 0x8
)

// V5Inode is the fixed part of an inode record. Name, link target, attributes
// and chunk records (ChunkRecord) follow it, each padded to V5Align.
type V5Inode struct {
	Digest     [32]byte // of content or children: see the format's digest tree
	Parent     uint64   // number of the directory that has this name; root: 0
	Ino        uint64   // sequence number of the first name
	UID        uint32
	GID        uint32
	ProjID     uint32 // 0
	Mode       uint32 // st_mode
	Size       uint64
	Blocks     uint64 // of 512 bytes: content and attributes
	Flags      uint64 // V5… bits
	Nlink      uint32
	ChildIndex uint32 // directories: sequence number of the first child
	ChildCount uint32 // directories: children; regular files: chunks
	NameLen    uint16
	LinkLen    uint16
	Rdev       uint32 // devices; else anything
	MtimeNsec  uint32
	Mtime      uint64 // seconds, signed
}

// Decode fills i from b[:V5InodeSize].
func (i *V5Inode) Decode(b []byte) {
	_ = b[V5InodeSize-1]
	copy(i.Digest[:], b[0:32])
	i.Parent = le.Uint64(b[32:])
	i.Ino = le.Uint64(b[40:])
	i.UID = le.Uint32(b[48:])
	i.GID = le.Uint32(b[52:])
	i.ProjID = le.Uint32(b[56:])
	i.Mode = le.Uint32(b[60:])
	i.Size = le.Uint64(b[64:])
	i.Blocks = le.Uint64(b[72:])
	i.Flags = le.Uint64(b[80:])
	i.Nlink = le.Uint32(b[88:])
	i.ChildIndex = le.Uint32(b[92:])
	i.ChildCount = le.Uint32(b[96:])
	i.NameLen = le.Uint16(b[100:])
	i.LinkLen = le.Uint16(b[102:])
	i.Rdev = le.Uint32(b[104:])
	i.MtimeNsec = le.Uint32(b[108:])
	i.Mtime = le.Uint64(b[112:])
}

// Append appends the V5InodeSize bytes of i to b.
func (i *V5Inode) Append(b []byte) []byte {
	b = append(b, i.Digest[:]...)
	b = le.AppendUint64(b, i.Parent)
	b = le.AppendUint64(b, i.Ino)
	b = le.AppendUint32(b, i.UID)
	b = le.AppendUint32(b, i.GID)
	b = le.AppendUint32(b, i.ProjID)
	b = le.AppendUint32(b, i.Mode)
	b = le.AppendUint64(b, i.Size)
	b = le.AppendUint64(b, i.Blocks)
	b = le.AppendUint64(b, i.Flags)
	b = le.AppendUint32(b, i.Nlink)
	b = le.AppendUint32(b, i.ChildIndex)
	b = le.AppendUint32(b, i.ChildCount)
	b = le.AppendUint16(b, i.NameLen)
	b = le.AppendUint16(b, i.LinkLen)
	b = le.AppendUint32(b, i.Rdev)
	b = le.AppendUint32(b, i.MtimeNsec)
	b = le.AppendUint64(b, i.Mtime)
	return zeros(b, 8)
}

// V5Blob is one entry of the extended blob table.
type V5Blob struct {
	ChunkCount       uint32
	Features         uint32 // Blob… bits
	UncompressedSize uint64
	CompressedSize   uint64
}

// Decode fills e from b[:V5BlobSize].
func (e *V5Blob) Decode(b []byte) {
	_ = b[V5BlobSize-1]
	e.ChunkCount = le.Uint32(b[0:])
	e.Features = le.Uint32(b[4:])
	e.UncompressedSize = le.Uint64(b[8:])
	e.CompressedSize = le.Uint64(b[16:])
}

// Append appends the V5BlobSize bytes of e to b.
func (e *V5Blob) Append(b []byte) []byte {
	b = le.AppendUint32(b, e.ChunkCount)
	b = le.AppendUint32(b, e.Features)
	b = le.AppendUint64(b, e.UncompressedSize)
	b = le.AppendUint64(b, e.CompressedSize)
	return zeros(b, 40)
}

// V5BlobHead begins an entry of the blob table; the blob's id follows, and a
// NUL between two entries.
type V5BlobHead struct {
	ReadaheadOff  uint32
	ReadaheadSize uint32
}

// Decode fills h from b[:V5BlobHeadSize].
func (h *V5BlobHead) Decode(b []byte) {
	_ = b[V5BlobHeadSize-1]
	h.ReadaheadOff = le.Uint32(b[0:])
	h.ReadaheadSize = le.Uint32(b[4:])
}

// Append appends the V5BlobHeadSize bytes of h to b.
func (h *V5BlobHead) Append(b []byte) []byte {
	b = le.AppendUint32(b, h.ReadaheadOff)
	return le.AppendUint32(b, h.ReadaheadSize)
}
