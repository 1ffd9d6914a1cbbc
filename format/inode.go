// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"io/fs"
	"math"

	"lighter/format/internal/disk"
)

// File types in Inode.Mode, those of Linux st_mode.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
)

// Inode is one inode as a value (EROFS on-disk format, or RAFS v5).
type Inode struct {
	Nid       uint64 // the inode's number for users: v6, its position in units of 32 bytes; v5, Ino
	Ino       uint32 // sequence number given by the builder; equal for all names of a hard link
	Mode      uint32 // st_mode with the file type
	UID       uint32
	GID       uint32
	Nlink     uint32
	Rdev      uint32 // devices: Linux 32-bit encoding; else 0
	Size      int64  // bytes: file content, link target, directory blocks
	Mtime     int64  // seconds since 1970
	MtimeNsec uint32

	layout uint8
	head   uint8  // size of the inode itself in bytes
	u      uint32 // first full block, device or chunk format
	xattr  uint32 // size of the xattr area in bytes

	v5 v5Inode
}

// IsDir reports whether the inode is a directory.
func (i Inode) IsDir() bool { return i.Mode&ModeType == ModeDir }

// IsRegular reports whether the inode is a regular file.
func (i Inode) IsRegular() bool { return i.Mode&ModeType == ModeRegular }

// IsSymlink reports whether the inode is a symbolic link.
func (i Inode) IsSymlink() bool { return i.Mode&ModeType == ModeSymlink }

// Major returns the major device number.
func (i Inode) Major() uint32 { return i.Rdev & 0xfff00 >> 8 }

// Minor returns the minor device number.
func (i Inode) Minor() uint32 { return i.Rdev&0xff | i.Rdev>>12&0xfff00 }

// FileMode returns Mode in the terms of io/fs.
func (i Inode) FileMode() fs.FileMode {
	m := fs.FileMode(i.Mode & 0o777)
	for _, t := range []struct {
		bit  uint32
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if i.Mode&t.bit != 0 {
			m |= t.mode
		}
	}
	switch i.Mode & ModeType {
	case ModeDir:
		m |= fs.ModeDir
	case ModeSymlink:
		m |= fs.ModeSymlink
	case ModeBlock:
		m |= fs.ModeDevice
	case ModeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case ModeFIFO:
		m |= fs.ModeNamedPipe
	case ModeSocket:
		m |= fs.ModeSocket
	}
	return m
}

// off is where the inode lies in the bootstrap, in bytes; −1 if that is not known.
func (b *Bootstrap) off(nid uint64) int64 {
	if b.v5 != nil {
		if r, err := b.recordV5(nid); err == nil {
			return r.off
		}
		return -1
	}
	return b.metaOff + int64(nid*disk.NidSize)
}

// tail is where the inode's inline data or chunk indexes may begin.
func (b *Bootstrap) tail(i *Inode) int64 {
	return b.off(i.Nid) + int64(i.head) + int64(i.xattr)
}

// Inode reads the inode with number nid and checks all of its fields.
func (b *Bootstrap) Inode(nid uint64) (Inode, error) {
	if b.v5 != nil {
		return b.readInodeV5(nid)
	}
	if nid > uint64(b.size)/disk.NidSize {
		return Inode{}, corrupt("inode", "nid", -1, "%d is behind the end of the bootstrap", nid)
	}
	off := b.off(nid)
	if off < disk.DeviceSlotsOff {
		return Inode{}, corrupt("inode", "nid", off, "%d lies in the superblock", nid)
	}
	p, err := b.view("inode", off, min(disk.InodeExtendedSize, max(b.size-off, disk.InodeCompactSize)))
	if err != nil {
		return Inode{}, err
	}
	i := Inode{Nid: nid}
	var icount, format uint16
	if p[0]&disk.FormatExtended != 0 {
		if len(p) < disk.InodeExtendedSize {
			return Inode{}, corrupt("inode", "i_format", off, "extended inode %d crosses the end", nid)
		}
		var d disk.InodeExtended
		d.Decode(p)
		if d.Size > math.MaxInt64 {
			return Inode{}, corrupt("inode", "i_size", off+8, "%d is above the limit", d.Size)
		}
		if d.MtimeNsec >= 1e9 {
			return Inode{}, corrupt("inode", "i_mtime_nsec", off+40, "%d is a second or more", d.MtimeNsec)
		}
		format, icount, i.head, i.u = d.Format, d.XattrICount, disk.InodeExtendedSize, d.U
		i.Mode, i.Size, i.Ino, i.UID, i.GID = uint32(d.Mode), int64(d.Size), d.Ino, d.UID, d.GID
		i.Mtime, i.MtimeNsec, i.Nlink = int64(d.Mtime), d.MtimeNsec, d.Nlink
	} else {
		var d disk.InodeCompact
		d.Decode(p)
		format, icount, i.head, i.u = d.Format, d.XattrICount, disk.InodeCompactSize, d.U
		i.Mode, i.Size, i.Ino, i.UID, i.GID = uint32(d.Mode), int64(d.Size), d.Ino, uint32(d.UID), uint32(d.GID)
		i.Mtime, i.MtimeNsec, i.Nlink = int64(b.sb.BuildTime), b.sb.BuildTimeNsec, uint32(d.Nlink)
	}
	if format&^disk.FormatKnown != 0 {
		return Inode{}, corrupt("inode", "i_format", off, "unknown bits in %#x", format)
	}
	i.layout = uint8(format >> disk.FormatLayoutShift & disk.FormatLayoutMask)
	if icount > 0 {
		i.xattr = disk.XattrHeaderSize + uint32(icount-1)*disk.XattrEntrySize
	}
	if err := b.checkInode(&i, off); err != nil {
		return Inode{}, err
	}
	return i, nil
}

// checkInode checks that layout and size fit the file type, and that all that
// belongs to the inode lies in the bootstrap.
func (b *Bootstrap) checkInode(i *Inode, off int64) error {
	bad := func(field string, at int64, detail string, args ...any) error {
		return corrupt("inode", field, off+at, detail, args...)
	}
	tail := b.tail(i)
	if tail > b.size {
		return bad("i_xattr_icount", 2, "%d bytes of xattrs cross the end", i.xattr)
	}
	flat := i.layout == disk.LayoutFlatPlain || i.layout == disk.LayoutFlatInline
	switch i.Mode & ModeType {
	case ModeRegular:
		if i.layout != disk.LayoutChunkBased {
			return bad("i_format", 0, "regular file with data layout %d", i.layout)
		}
		if i.u&^(disk.ChunkFormatIndexes|disk.ChunkFormatBits) != 0 || i.u&disk.ChunkFormatIndexes == 0 {
			return bad("i_u", 16, "chunk format %#x", i.u)
		}
		if n := b.chunkCount(i); n > 0 && n*disk.ChunkIndexSize > b.size-b.indexOff(i) {
			return bad("i_size", 8, "the chunk indexes of %d bytes cross the end", i.Size)
		}
		return nil
	case ModeDir, ModeSymlink:
		if !flat {
			return bad("i_format", 0, "data layout %d of a directory or link", i.layout)
		}
		if i.IsSymlink() && i.Size > maxSymlink {
			return bad("i_size", 8, "link target of %d bytes", i.Size)
		}
		return b.checkFlat(i, off)
	case ModeChar, ModeBlock:
		i.Rdev = i.u
	case ModeFIFO, ModeSocket:
	default:
		return bad("i_mode", 4, "%#o has no file type", i.Mode)
	}
	if i.layout != disk.LayoutFlatPlain || i.Size != 0 {
		return bad("i_size", 8, "special file with data layout %d and %d bytes", i.layout, i.Size)
	}
	return nil
}

// checkFlat checks that the data of a directory or link lies in the bootstrap.
func (b *Bootstrap) checkFlat(i *Inode, off int64) error {
	full := b.fullSize(i)
	if i.Size > b.size {
		return corrupt("inode", "i_size", off+8, "%d bytes do not fit the bootstrap", i.Size)
	}
	if full > 0 {
		begin := int64(i.u) << b.blkBits
		if end := begin + full; begin < disk.DeviceSlotsOff || end > (b.size+b.blk-1)&^(b.blk-1) || begin+min(full, i.Size) > b.size {
			return corrupt("inode", "i_u", off+16, "%d bytes at block %d do not fit the bootstrap", i.Size, i.u)
		}
	}
	if n := i.Size - full; n > 0 {
		if tail := b.tail(i); tail+n > b.size || tail&(b.blk-1)+n > b.blk {
			return corrupt("inode", "i_size", off+8, "inline tail of %d bytes crosses the end of its block", n)
		}
	}
	return nil
}

// fullSize is the part of flat data that lies in blocks of its own: all of
// layout plain, all before the last block of layout inline.
func (b *Bootstrap) fullSize(i *Inode) int64 {
	if i.layout == disk.LayoutFlatPlain || i.Size == 0 {
		return i.Size
	}
	return (i.Size - 1) &^ (b.blk - 1)
}

// flatOff is where byte pos of flat data lies in the bootstrap. The rest of
// pos's block follows it.
func (b *Bootstrap) flatOff(i *Inode, pos int64) int64 {
	if full := b.fullSize(i); pos >= full {
		return b.tail(i) + pos - full
	}
	return int64(i.u)<<b.blkBits + pos
}

// Readlink returns the target of a symbolic link.
func (b *Bootstrap) Readlink(i Inode) (string, error) {
	if !i.IsSymlink() {
		return "", corrupt("inode", "i_mode", b.off(i.Nid)+4, "%#o is no symbolic link", i.Mode)
	}
	if i.Size == 0 {
		return "", corrupt("link target", "", b.off(i.Nid), "inode %d has an empty one", i.Nid)
	}
	if b.v5 != nil {
		return b.readlinkV5(&i)
	}
	target := make([]byte, 0, i.Size)
	for pos := int64(0); pos < i.Size; {
		n := min(b.blk, i.Size-pos)
		p, err := b.view("link target", b.flatOff(&i, pos), n)
		if err != nil {
			return "", err
		}
		target, pos = append(target, p...), pos+n
	}
	if k := bytes.IndexByte(target, 0); k >= 0 {
		return "", corrupt("link target", "", b.flatOff(&i, int64(k)), "NUL in the target of inode %d", i.Nid)
	}
	return string(target), nil
}
