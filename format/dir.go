// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"io/fs"
	"strings"

	"lighter/format/internal/disk"
)

// Types of directory entries, those of Linux readdir.
const (
	DTFIFO    = 1
	DTChar    = 2
	DTDir     = 4
	DTBlock   = 6
	DTRegular = 8
	DTSymlink = 10
	DTSocket  = 12
)

// dirTypes translates EROFS file types to DT values; 0: no type.
var dirTypes = [...]uint8{
	disk.FileTypeRegular: DTRegular,
	disk.FileTypeDir:     DTDir,
	disk.FileTypeChar:    DTChar,
	disk.FileTypeBlock:   DTBlock,
	disk.FileTypeFIFO:    DTFIFO,
	disk.FileTypeSocket:  DTSocket,
	disk.FileTypeSymlink: DTSymlink,
}

// Dirent is one entry of a directory.
type Dirent struct {
	Name string // any bytes but "/" and NUL, at most 255
	Nid  uint64
	Type uint8 // DT… value; equal to the type bits of the inode's mode >> 12
}

// Positions in a directory are the number of the block, shifted, plus the
// number of the entry in it: an entry is found without counting the ones in
// the blocks before. A block of 4096 bytes has at most 315 entries.
const dirPosShift = 9

// Dirents calls fn for each entry of the directory, "." and ".." included, in
// byte order of the names (in RAFS v5, which does not store these two,
// before all names), until fn returns false. It begins at position
// from: 0 is the beginning, and one more than the i given with an entry is
// the entry that follows it. Positions increase, but not always by one; they
// fit 41 bits. Every entry is checked by itself and against the one before;
// Child checks it against the inode.
func (b *Bootstrap) Dirents(dir Inode, from int, fn func(i int, d Dirent) bool) error {
	if err := b.needDir(&dir); err != nil {
		return err
	}
	if from < 0 {
		return fs.ErrInvalid
	}
	if b.v5 != nil {
		return b.direntsV5(&dir, from, fn)
	}
	blocks := b.dirBlocks(&dir)
	prev, err := b.nameBefore(&dir, int64(from)>>dirPosShift, from&(1<<dirPosShift-1))
	if err != nil {
		return err
	}
	for k, e := int64(from)>>dirPosShift, from&(1<<dirPosShift-1); k < blocks; k, e = k+1, 0 {
		db, err := b.dirBlock(&dir, k)
		if err != nil {
			return err
		}
		for ; e < db.count; e++ {
			d, name, err := db.entry(e)
			if err != nil {
				return err
			}
			if prev != nil && bytes.Compare(prev, name) >= 0 {
				return corrupt("directory block", "name", db.off, "%q follows %q in directory %d", name, prev, dir.Nid)
			}
			prev = name
			if !fn(int(k)<<dirPosShift|e, Dirent{string(name), d.Nid, dirTypes[d.FileType]}) {
				return nil
			}
		}
	}
	return nil
}

// nameBefore returns the name before entry e of block k; nil at the beginning
// and beyond the end.
func (b *Bootstrap) nameBefore(dir *Inode, k int64, e int) ([]byte, error) {
	if k >= b.dirBlocks(dir) || k == 0 && e == 0 {
		return nil, nil
	}
	if e == 0 {
		k, e = k-1, 1<<dirPosShift
	}
	db, err := b.dirBlock(dir, k)
	if err != nil {
		return nil, err
	}
	_, name, err := db.entry(min(e, db.count) - 1)
	return name, err
}

// Lookup returns the number of the inode that name has in the directory; the
// error wraps fs.ErrNotExist if there is none. It searches binarily. The
// inode found is checked as by Child.
func (b *Bootstrap) Lookup(dir Inode, name string) (nid uint64, err error) {
	d, err := b.find(&dir, name)
	if err != nil {
		return 0, err
	}
	i, err := b.Child(dir, d)
	return i.Nid, err
}

// Child returns the inode of entry d of the directory. It must have the type
// that the entry says, and if it is a directory, its ".." must lead back:
// so no walk from the root can meet a directory twice.
func (b *Bootstrap) Child(dir Inode, d Dirent) (Inode, error) {
	i, err := b.Inode(d.Nid)
	if err != nil {
		return Inode{}, err
	}
	if uint32(d.Type)<<12 != i.Mode&ModeType {
		return Inode{}, corrupt("inode", "i_mode", b.off(i.Nid)+4, "%#o, but %q in directory %d has type %d", i.Mode, d.Name, dir.Nid, d.Type)
	}
	switch {
	case d.Name == ".":
		if d.Nid != dir.Nid {
			return Inode{}, corrupt("directory", "nid", b.off(dir.Nid), "%q of directory %d is %d", d.Name, dir.Nid, d.Nid)
		}
	case d.Name == "..":
	case i.IsDir():
		if i.Nid == dir.Nid || i.Nid == b.info.RootNid {
			return Inode{}, corrupt("directory", "nid", b.off(dir.Nid), "%q in directory %d leads back to %d", d.Name, dir.Nid, i.Nid)
		}
		up, err := b.find(&i, "..")
		if err != nil {
			return Inode{}, corrupt("directory", "..", b.off(i.Nid), "directory %d has no parent: %v", i.Nid, err)
		}
		if up.Nid != dir.Nid {
			return Inode{}, corrupt("directory", "..", b.off(i.Nid), "%q in directory %d is a directory below %d", d.Name, dir.Nid, up.Nid)
		}
	}
	return i, nil
}

// LookupPath walks path from the root. Elements are separated by "/", empty
// ones and "." ignored; symbolic links are not followed.
func (b *Bootstrap) LookupPath(path string) (Inode, error) {
	i, err := b.Inode(b.info.RootNid)
	if err != nil {
		return Inode{}, err
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if !i.IsDir() {
			return Inode{}, &fs.PathError{Op: "lookup", Path: path, Err: fs.ErrNotExist}
		}
		nid, err := b.Lookup(i, name)
		if err != nil {
			return Inode{}, &fs.PathError{Op: "lookup", Path: path, Err: err}
		}
		if i, err = b.Inode(nid); err != nil {
			return Inode{}, err
		}
	}
	return i, nil
}

func (b *Bootstrap) needDir(i *Inode) error {
	if !i.IsDir() {
		return corrupt("inode", "i_mode", b.off(i.Nid)+4, "%#o is no directory", i.Mode)
	}
	return nil
}

// find searches the entry with the name: first the last block whose first
// name is not behind it, then within that block.
func (b *Bootstrap) find(dir *Inode, name string) (Dirent, error) {
	if err := b.needDir(dir); err != nil {
		return Dirent{}, err
	}
	if b.v5 != nil {
		return b.findV5(dir, name)
	}
	var at dirBlock
	lo, hi := int64(0), b.dirBlocks(dir)
	for lo < hi {
		mid := (lo + hi) / 2
		db, err := b.dirBlock(dir, mid)
		if err != nil {
			return Dirent{}, err
		}
		_, first, err := db.entry(0)
		if err != nil {
			return Dirent{}, err
		}
		if string(first) <= name {
			at, lo = db, mid+1
		} else {
			hi = mid
		}
	}
	for e, end := 0, at.count; e < end; {
		mid := (e + end) / 2
		d, found, err := at.entry(mid)
		switch {
		case err != nil:
			return Dirent{}, err
		case string(found) == name:
			return Dirent{name, d.Nid, dirTypes[d.FileType]}, nil
		case string(found) < name:
			e = mid + 1
		default:
			end = mid
		}
	}
	return Dirent{}, fs.ErrNotExist
}
