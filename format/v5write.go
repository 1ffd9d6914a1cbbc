// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"hash"
	"math"

	"lighter/format/internal/disk"
)

// v5Encoder writes a tree as a RAFS v5 bootstrap.
type v5Encoder struct {
	t       *tree
	h       hash.Hash
	digests map[*node][32]byte
	out     []byte
	table   int64 // offset of the inode table
}

// encodeV5 is encode for RAFS v5. The volume name has no place there.
func (t *tree) encodeV5(e encoding) ([]byte, error) {
	t.inos = t.number()
	if t.inos > math.MaxUint32 {
		return nil, fmt.Errorf("%d tree entries, more than %d", t.inos, uint32(math.MaxUint32))
	}
	inodes := t.numberV5()
	prefetch := t.prefetchInos(e.prefetch)
	blobs := t.blobTableV5()
	s := disk.V5Superblock{
		Magic: disk.V5Magic, Version: disk.V5Version, Size: disk.V5SuperblockSize,
		ChunkSize: t.chunkSize, Flags: e.flags, Inodes: inodes, Names: uint32(t.inos),
		InodeTableOff: disk.V5SuperblockSize, Prefetches: uint32(len(prefetch)), Blobs: uint32(len(t.blobs)),
		BlobTableSize: uint32(len(blobs)),
	}
	s.PrefetchOff = s.InodeTableOff + uint64(up(4*int64(t.inos), disk.V5Align))
	s.BlobTableOff = s.PrefetchOff + uint64(up(4*int64(len(prefetch)), disk.V5Align))
	s.ExtBlobOff = s.BlobTableOff + uint64(len(blobs))
	first := int64(s.ExtBlobOff) + disk.V5BlobSize*int64(len(t.blobs))
	size := first + t.sizeV5()
	if size > disk.V5MaxSize {
		return nil, fmt.Errorf("bootstrap of %d bytes, more than RAFS v5 can have (%d)", size, disk.V5MaxSize)
	}
	x := &v5Encoder{t: t, h: flagsDigester(e.flags).New(), digests: map[*node][32]byte{}, table: int64(s.InodeTableOff)}
	x.out = make([]byte, first, size)
	s.Append(x.out[:0])
	for i, ino := range prefetch {
		le.PutUint32(x.out[s.PrefetchOff+4*uint64(i):], ino)
	}
	ext := append(x.out[:s.BlobTableOff], blobs...)
	for i := range t.blobs {
		b := disk.V5Blob{
			ChunkCount: t.blobs[i].ChunkCount, Features: t.blobs[i].Features,
			UncompressedSize: t.blobs[i].UncompressedSize, CompressedSize: t.blobs[i].CompressedSize,
		}
		ext = b.Append(ext)
	}
	x.inode(v5Name{name: "/", index: 1}, t.root)
	x.children(t.root)
	return x.out, nil
}

// numberV5 tells every directory the number of its first child and returns the
// number of inodes. Names are numbered as by number.
func (t *tree) numberV5() (inodes uint64) {
	last, inodes := uint32(1), uint64(1)
	var rec func(d *node)
	rec = func(d *node) {
		d.first = last + 1
		for e := range d.names {
			if last++; e.node.ino == last {
				inodes++
			}
		}
		for e := range d.names {
			if e.node.isDir() {
				rec(e.node)
			}
		}
	}
	rec(t.root)
	return inodes
}

// prefetchInos returns the numbers of the paths that are in the tree.
func (t *tree) prefetchInos(paths []string) []uint32 {
	var inos []uint32
	for _, p := range paths {
		if n := t.exact(p); n != nil {
			inos = append(inos, n.ino)
		}
	}
	return inos
}

// blobTableV5 returns the blob table with its padding.
func (t *tree) blobTableV5() []byte {
	var b []byte
	for i := range t.blobs {
		if i > 0 {
			b = append(b, 0)
		}
		b = (&disk.V5BlobHead{}).Append(b)
		b = append(b, disk.CString(t.blobs[i].ID[:])...)
	}
	return pad(b)
}

// pad appends zeros up to what structures of RAFS v5 are aligned to.
func pad(b []byte) []byte {
	for len(b)%disk.V5Align != 0 {
		b = append(b, 0)
	}
	return b
}

// sizeV5 is the number of bytes of all inode records.
func (t *tree) sizeV5() int64 {
	size := t.root.sizeV5("/")
	var rec func(d *node)
	rec = func(d *node) {
		for e := range d.names {
			size += e.node.sizeV5(e.name)
			if e.node.isDir() {
				rec(e.node)
			}
		}
	}
	rec(t.root)
	return size
}

func (n *node) sizeV5(name string) int64 {
	size := disk.V5InodeSize + up(int64(len(name)), disk.V5Align) + up(int64(len(n.target)), disk.V5Align)
	if x := n.xattrSizeV5(); x > 0 {
		size += 8 + up(x, disk.V5Align)
	}
	return size + disk.ChunkRecordSize*int64(len(n.chunks))
}

func (n *node) xattrSizeV5() (size int64) {
	for _, x := range n.xattrs {
		size += int64(4 + len(x.Name) + 1 + len(x.Value))
	}
	return size
}

// v5Name is one name of an inode.
type v5Name struct {
	name          string
	index, parent uint32
}

// children writes what is below a directory: each entry, followed by all that
// is below it.
func (x *v5Encoder) children(d *node) {
	index := d.first
	for e := range d.names {
		x.inode(v5Name{e.name, index, d.ino}, e.node)
		if e.node.isDir() {
			x.children(e.node)
		}
		index++
	}
}

// inode writes the record of one name.
func (x *v5Encoder) inode(name v5Name, n *node) {
	le.PutUint32(x.out[x.table+4*int64(name.index-1):], uint32(len(x.out)/disk.V5Align))
	xattrs := n.xattrSizeV5()
	i := disk.V5Inode{
		Digest: x.digest(n), Parent: uint64(name.parent), Ino: uint64(n.ino), UID: n.uid, GID: n.gid, Mode: n.mode,
		Nlink: n.nlink, NameLen: uint16(len(name.name)), LinkLen: uint16(len(n.target)), Rdev: n.rdev,
		MtimeNsec: n.nsec, Mtime: uint64(n.mtime),
	}
	switch {
	case n.isDir():
		for e := range n.names {
			i.Size += uint64(len(e.name) + 8)
			i.ChildCount++
		}
		i.Size, i.ChildIndex = uint64(max(up(int64(i.Size), blockSize), blockSize)), n.first
	case n.isRegular():
		i.Size, i.ChildCount = uint64(n.size), uint32(len(n.chunks))
	case n.isSymlink():
		i.Size, i.Flags = uint64(len(n.target)), disk.V5Symlink
	}
	if n.ino != name.index {
		i.Flags |= disk.V5HardLink
	}
	if xattrs > 0 {
		i.Flags |= disk.V5HasXattr
	}
	i.Blocks = (i.Size + uint64(up(xattrs, disk.V5Align)) + 511) / 512
	b := i.Append(x.out)
	b = pad(append(b, name.name...))
	b = pad(append(b, n.target...))
	if xattrs > 0 {
		b = le.AppendUint64(b, uint64(xattrs))
		for _, a := range n.xattrs {
			b = le.AppendUint32(b, uint32(len(a.Name)+1+len(a.Value)))
			b = append(append(append(b, a.Name...), 0), a.Value...)
		}
		b = pad(b)
	}
	for k, c := range n.chunks {
		r := x.t.chunks[c]
		r.FileOff = uint64(k) * uint64(x.t.chunkSize)
		b = r.Append(b)
	}
	x.out = b
}

// digest returns the digest of a node: of its chunks' digests, its link target,
// or its children's digests.
func (x *v5Encoder) digest(n *node) [32]byte {
	if sum, known := x.digests[n]; known {
		return sum
	}
	var below [][32]byte
	if n.isDir() {
		for e := range n.names {
			below = append(below, x.digest(e.node))
		}
	}
	x.h.Reset()
	for k := range below {
		x.h.Write(below[k][:])
	}
	for _, c := range n.chunks {
		x.h.Write(x.t.chunks[c].Digest[:])
	}
	x.h.Write([]byte(n.target))
	var sum [32]byte
	x.h.Sum(sum[:0])
	x.digests[n] = sum
	return sum
}
