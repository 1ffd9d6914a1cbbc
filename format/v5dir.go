// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"io/fs"
)

// A directory of RAFS v5 has no data: its children are consecutive records of
// the inode table, sorted by name. Positions 0 and 1 are "." and "..", which
// have no records.
const v5Dots = 2

// direntsV5 is Dirents for RAFS v5.
func (b *Bootstrap) direntsV5(dir *Inode, from int, fn func(i int, d Dirent) bool) error {
	n := v5Dots + int(dir.v5.count)
	var prev []byte
	if from > v5Dots && from < n {
		r, err := b.childV5(dir, from-v5Dots-1)
		if err != nil {
			return err
		}
		prev = r.name
	}
	for i := from; i < n; i++ {
		d := Dirent{".", dir.Nid, DTDir}
		switch {
		case i == 1:
			d = b.parentV5(dir)
		case i >= v5Dots:
			r, err := b.childV5(dir, i-v5Dots)
			if err != nil {
				return err
			}
			if prev != nil && bytes.Compare(prev, r.name) >= 0 {
				return corrupt("inode", "name", r.off, "%q follows %q in directory %d", r.name, prev, dir.Nid)
			}
			prev, d = r.name, r.dirent()
		}
		if !fn(i, d) {
			return nil
		}
	}
	return nil
}

func (r *v5Record) dirent() Dirent {
	return Dirent{string(r.name), r.Ino, uint8(r.Mode & ModeType >> 12)}
}

// parentV5 is the entry ".." of a directory.
func (b *Bootstrap) parentV5(dir *Inode) Dirent {
	return Dirent{"..", max(uint64(dir.v5.parent), b.info.RootNid), DTDir}
}

// childV5 reads child k of a directory. Its record must say that it belongs
// there.
func (b *Bootstrap) childV5(dir *Inode, k int) (v5Record, error) {
	r, err := b.recordV5(uint64(dir.v5.first) + uint64(k))
	if err != nil {
		return r, err
	}
	if r.Parent != dir.Nid {
		return r, corrupt("inode", "i_parent", r.off+32, "%q in directory %d belongs to %d", r.name, dir.Nid, r.Parent)
	}
	bad := checkName(r.name)
	if name := string(r.name); name == "." || name == ".." {
		bad = "is no name"
	}
	if bad != "" {
		return r, corrupt("inode", "name", r.off+128, "%q in directory %d %s", r.name, dir.Nid, bad)
	}
	_, err = b.inodeV5(&r)
	return r, err
}

// findV5 is find for RAFS v5.
func (b *Bootstrap) findV5(dir *Inode, name string) (Dirent, error) {
	switch name {
	case ".":
		return Dirent{".", dir.Nid, DTDir}, nil
	case "..":
		return b.parentV5(dir), nil
	}
	for lo, hi := 0, int(dir.v5.count); lo < hi; {
		mid := (lo + hi) / 2
		r, err := b.childV5(dir, mid)
		switch {
		case err != nil:
			return Dirent{}, err
		case string(r.name) == name:
			return r.dirent(), nil
		case string(r.name) < name:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return Dirent{}, fs.ErrNotExist
}
