// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"encoding/binary"

	"lighter/format/internal/disk"
)

// dirBlock is one block of a directory (EROFS on-disk format):
//
//	| entry 0 | entry 1 | … | name 0 name 1 … | zeros |
//
// Entry 0 tells where the names begin, and so the number of entries.
type dirBlock struct {
	p     []byte // the block, or its used part when it is the last
	off   int64  // in the bootstrap
	count int    // entries, at least one
}

func (b *Bootstrap) dirBlocks(dir *Inode) int64 { return (dir.Size + b.blk - 1) >> b.blkBits }

// dirBlock reads block k of the directory.
func (b *Bootstrap) dirBlock(dir *Inode, k int64) (dirBlock, error) {
	pos := k << b.blkBits
	off := b.flatOff(dir, pos)
	p, err := b.view("directory block", off, min(b.blk, dir.Size-pos))
	if err != nil {
		return dirBlock{}, err
	}
	return parseDirBlock(p, off)
}

func parseDirBlock(p []byte, off int64) (dirBlock, error) {
	if len(p) < disk.DirentSize {
		return dirBlock{}, corrupt("directory block", "", off, "%d bytes are too short", len(p))
	}
	names := int(binary.LittleEndian.Uint16(p[8:]))
	if names == 0 || names%disk.DirentSize != 0 || names >= len(p) {
		return dirBlock{}, corrupt("directory block", "nameoff", off+8, "%d in a block of %d bytes", names, len(p))
	}
	return dirBlock{p: p, off: off, count: names / disk.DirentSize}, nil
}

// entry returns entry e with its name, which lies in the block.
func (db *dirBlock) entry(e int) (d disk.Dirent, name []byte, err error) {
	at := e * disk.DirentSize
	d.Decode(db.p[at:])
	begin, end := int(d.NameOff), len(db.p)
	last := e+1 == db.count
	if !last {
		end = int(binary.LittleEndian.Uint16(db.p[at+disk.DirentSize+8:]))
	}
	if begin < db.count*disk.DirentSize || end > len(db.p) || begin >= end {
		return d, nil, corrupt("directory block", "nameoff", db.off+int64(at)+8, "name from %d to %d", begin, end)
	}
	name = db.p[begin:end]
	if last {
		if k := bytes.IndexByte(name, 0); k >= 0 {
			name = name[:k]
		}
	}
	if int(d.FileType) >= len(dirTypes) || dirTypes[d.FileType] == 0 {
		return d, nil, corrupt("directory block", "file_type", db.off+int64(at)+10, "%d is no type", d.FileType)
	}
	if bad := checkName(name); bad != "" {
		return d, nil, corrupt("directory block", "name", db.off+int64(begin), "%q %s", name[:min(len(name), 2*disk.MaxName)], bad)
	}
	return d, name, nil
}

// checkName says what is wrong with a name, "" if nothing.
func checkName(name []byte) string {
	switch {
	case len(name) == 0:
		return "is empty"
	case len(name) > disk.MaxName:
		return "is longer than 255 bytes"
	case bytes.IndexByte(name, '/') >= 0:
		return "has a slash"
	case bytes.IndexByte(name, 0) >= 0:
		return "has a NUL"
	}
	return ""
}
