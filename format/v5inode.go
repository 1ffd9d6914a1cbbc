// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"

	"lighter/format/internal/disk"
)

// v5Inode is what an Inode of RAFS v5 needs to find its parts.
type v5Inode struct {
	off    int64  // of the record; 0: the inode is of RAFS v6
	names  uint32 // bytes of the record with name and link target
	xattrs bool   // attributes follow those, after 8 bytes for their size
	parent uint32 // number of the directory above; 0: root
	first  uint32 // sequence number of a directory's first child
	count  uint32 // of children or chunks
}

// v5Record is an inode record: one name of an inode. The records of a hard
// link's names are equal but for name and parent.
type v5Record struct {
	disk.V5Inode
	index uint64 // sequence number: position in the inode table, from 1
	off   int64
	name  []byte
}

// recordV5 reads the record with a sequence number, with its name.
func (b *Bootstrap) recordV5(index uint64) (r v5Record, err error) {
	if index == 0 || index > uint64(b.v5.Names) {
		return r, corrupt("inode", "index", -1, "%d is not within 1 to %d", index, b.v5.Names)
	}
	at := int64(b.v5.InodeTableOff) + 4*int64(index-1)
	p, err := b.view("inode table", at, 4)
	if err != nil {
		return r, err
	}
	r.index, r.off = index, int64(le.Uint32(p))*disk.V5Align
	if r.off < disk.V5SuperblockSize {
		return r, corrupt("inode table", "", at, "inode %d lies in the superblock", index)
	}
	p, err = b.view("inode", r.off, max(disk.V5InodeSize, min(disk.V5InodeSize+disk.MaxName+1, b.size-r.off)))
	if err != nil {
		return r, err
	}
	r.Decode(p)
	if int(r.NameLen) > min(disk.MaxName, len(p)-disk.V5InodeSize) {
		return r, corrupt("inode", "i_name_size", r.off+100, "name of %d bytes", r.NameLen)
	}
	r.name = p[disk.V5InodeSize : disk.V5InodeSize+int(r.NameLen)]
	return r, nil
}

// readInodeV5 is Inode for RAFS v5, where the nid is the number of the inode's
// first name.
func (b *Bootstrap) readInodeV5(nid uint64) (Inode, error) {
	r, err := b.recordV5(nid)
	if err != nil {
		return Inode{}, err
	}
	if r.Ino != nid {
		return Inode{}, corrupt("inode", "i_ino", r.off+40, "%d, but it is number %d of the table", r.Ino, nid)
	}
	return b.inodeV5(&r)
}

// inodeV5 checks a record and returns it as an Inode.
func (b *Bootstrap) inodeV5(r *v5Record) (Inode, error) {
	bad := func(field string, at int64, detail string, args ...any) (Inode, error) {
		return Inode{}, corrupt("inode", field, r.off+at, detail, args...)
	}
	switch {
	case r.Ino == 0 || r.Ino > r.index:
		return bad("i_ino", 40, "%d is number %d of the table", r.Ino, r.index)
	case r.Parent >= r.index || (r.Parent == 0) != (r.index == 1):
		return bad("i_parent", 32, "%d of inode %d", r.Parent, r.index)
	case r.Mode > 0xffff:
		return bad("i_mode", 60, "%#o", r.Mode)
	case r.Size > math.MaxInt64:
		return bad("i_size", 64, "%d is above the limit", r.Size)
	case r.MtimeNsec >= 1e9:
		return bad("i_mtime_nsec", 108, "%d is a second or more", r.MtimeNsec)
	case r.Nlink == 0:
		return bad("i_nlink", 88, "inode %d has no link", r.Ino)
	case (r.LinkLen != 0) != (r.Mode&ModeType == ModeSymlink):
		return bad("i_symlink_size", 102, "%d bytes of an inode with mode %#o", r.LinkLen, r.Mode)
	}
	i := Inode{
		Nid: r.Ino, Ino: uint32(r.Ino), Mode: r.Mode, UID: r.UID, GID: r.GID, Nlink: r.Nlink,
		Size: int64(r.Size), Mtime: int64(r.Mtime), MtimeNsec: r.MtimeNsec,
		v5: v5Inode{
			off: r.off, parent: uint32(r.Parent), first: r.ChildIndex, count: r.ChildCount,
			names: uint32(disk.V5InodeSize + up(int64(r.NameLen), disk.V5Align) + up(int64(r.LinkLen), disk.V5Align)),
		},
	}
	if r.Flags&disk.V5HasXattr != 0 {
		at := r.off + int64(i.v5.names)
		p, err := b.view("xattr area", at, 8)
		if err != nil {
			return Inode{}, err
		}
		n := le.Uint64(p)
		if n > uint64(b.size-at-8) {
			return Inode{}, corrupt("xattr area", "size", at, "%d bytes do not fit the bootstrap of %d bytes", n, b.size)
		}
		i.xattr, i.v5.xattrs = uint32(n), true
	}
	return i, b.checkInodeV5(&i, r)
}

// chunks is where chunk records begin.
func (v *v5Inode) chunks(xattr uint32) int64 {
	end := v.off + int64(v.names)
	if v.xattrs {
		end += 8 + up(int64(xattr), disk.V5Align)
	}
	return end
}

// recordEnd is where the record ends, chunks included.
func (v *v5Inode) recordEnd(i *Inode) int64 {
	if i.IsRegular() {
		return v.chunks(i.xattr) + int64(v.count)*disk.ChunkRecordSize
	}
	return v.chunks(i.xattr)
}

// checkInodeV5 checks that what the record counts fits its type, and that all
// of it lies in the bootstrap.
func (b *Bootstrap) checkInodeV5(i *Inode, r *v5Record) error {
	bad := func(field string, at int64, detail string, args ...any) error {
		return corrupt("inode", field, r.off+at, detail, args...)
	}
	end := b.indexOff(i)
	switch i.Mode & ModeType {
	case ModeRegular:
		if n := b.chunkCount(i); n != int64(r.ChildCount) {
			return bad("i_child_count", 96, "%d chunks for %d bytes", r.ChildCount, i.Size)
		}
		end += int64(r.ChildCount) * disk.ChunkRecordSize
	case ModeDir:
		switch {
		case r.Ino != r.index:
			return bad("i_ino", 40, "directory %d has a second name, %d", r.Ino, r.index)
		case r.ChildCount > 0 && uint64(r.ChildIndex) <= r.index:
			return bad("i_child_index", 92, "children of %d begin at %d", r.index, r.ChildIndex)
		case r.ChildCount > 0 && uint64(r.ChildIndex)+uint64(r.ChildCount)-1 > uint64(b.v5.Names):
			return bad("i_child_count", 96, "%d children from %d, of %d", r.ChildCount, r.ChildIndex, b.v5.Names)
		}
	case ModeSymlink:
		if i.Size != int64(r.LinkLen) || i.Size > maxSymlink {
			return bad("i_symlink_size", 102, "%d bytes in a link of %d", r.LinkLen, i.Size)
		}
	case ModeChar, ModeBlock:
		i.Rdev = r.Rdev
	case ModeFIFO, ModeSocket:
	default:
		return bad("i_mode", 60, "%#o has no file type", i.Mode)
	}
	if end > b.size {
		return bad("", 0, "inode %d crosses the end of the bootstrap", i.Nid)
	}
	return nil
}

// readlinkV5 is Readlink for RAFS v5.
func (b *Bootstrap) readlinkV5(i *Inode) (string, error) {
	off := i.v5.off + int64(i.v5.names) - up(i.Size, disk.V5Align)
	p, err := b.view("link target", off, i.Size)
	if err != nil {
		return "", err
	}
	if k := bytes.IndexByte(p, 0); k >= 0 {
		return "", corrupt("link target", "", off+int64(k), "NUL in the target of inode %d", i.Nid)
	}
	return string(p), nil
}

// xattrsV5 is Xattrs for RAFS v5: pairs of name and value, with a length and a
// NUL between them.
func (b *Bootstrap) xattrsV5(i *Inode) ([]Xattr, error) {
	off := i.v5.off + int64(i.v5.names) + 8
	p, err := b.view("xattr area", off, int64(i.xattr))
	if err != nil {
		return nil, err
	}
	return parseXattrsV5(p, off)
}

// parseXattrsV5 reads an xattr area, which lies at off in the bootstrap.
func parseXattrsV5(p []byte, off int64) ([]Xattr, error) {
	var all []Xattr
	for at := off; len(p) > 0; {
		if len(p) < 4 || uint64(le.Uint32(p)) > uint64(len(p)-4) {
			return nil, corrupt("xattr area", "size", at, "a pair does not fit the %d bytes that are left", len(p))
		}
		n := 4 + int(le.Uint32(p))
		pair := p[4:n:n]
		k := bytes.IndexByte(pair, 0)
		if k <= 0 {
			return nil, corrupt("xattr area", "name", at+4, "%.80q has no name", pair)
		}
		x := Xattr{Name: string(pair[:k]), Value: pair[k+1:]}
		if _, _, ok := splitXattr(x.Name); ok && !strings.HasPrefix(x.Name, hiddenXattrs) {
			all = append(all, x)
		}
		p, at = p[n:], at+int64(n)
	}
	slices.SortFunc(all, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	for k := 1; k < len(all); k++ {
		if all[k].Name == all[k-1].Name {
			return nil, corrupt("xattr area", "name", off, "%q occurs twice", all[k].Name)
		}
	}
	return all, nil
}
