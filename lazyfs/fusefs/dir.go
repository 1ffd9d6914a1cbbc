// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"lighter/format"
)

// An entry's offset (d_off) is its cookie in the bootstrap plus one: where the
// next entry is looked for. It is the same in every process and at any time,
// so that seekdir(3) and a change of server in the middle of a listing work.

// ReadDir implements READDIR.
func (t *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.list("readdir", in, func(_ format.Inode, e fuse.DirEntry, _ format.Dirent) bool {
		return out.AddDirEntry(e)
	})
}

// ReadDirPlus implements READDIRPLUS: entries with what a lookup would answer.
func (t *tree) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return t.list("readdirplus", in, func(dir format.Inode, e fuse.DirEntry, d format.Dirent) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if d.Name == "." || d.Name == ".." {
			return true // the kernel wants no node for these
		}
		// Without a node the kernel looks the name up when it is used,
		// and then the user learns what is wrong with it.
		if ino, err := t.b.Child(dir, d); err == nil {
			t.entry(ino, entry)
		}
		return true
	})
}

// list calls add for each entry from in.Offset on until it says no.
func (t *tree) list(op string, in *fuse.ReadIn, add func(format.Inode, fuse.DirEntry, format.Dirent) bool) fuse.Status {
	dir, status := t.inode(op, in.NodeId)
	if !status.Ok() {
		return status
	}
	if dir.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	if in.Offset > maxOffset {
		return fuse.EINVAL
	}
	n := 0
	err := t.b.Dirents(dir, int(in.Offset), func(i int, d format.Dirent) bool {
		e := fuse.DirEntry{Name: d.Name, Ino: d.Nid, Mode: uint32(d.Type) << 12, Off: uint64(i) + 1}
		if !add(dir, e, d) {
			return false
		}
		n++
		return true
	})
	if err != nil && n == 0 { // what was found is listed first
		return t.damage(op, in.NodeId, err)
	}
	return fuse.OK
}

// maxOffset is the greatest offset that a directory can have given out.
const maxOffset = 1<<62 - 1
