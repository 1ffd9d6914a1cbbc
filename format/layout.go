// SPDX-License-Identifier: Apache-2.0

package format

import "lighter/format/internal/disk"

// blockSize is the EROFS block size of the bootstraps that we write.
const blockSize = 1 << disk.BlockBits

// up rounds x up to a multiple of a, a power of two.
func up(x, a int64) int64 { return (x + a - 1) &^ (a - 1) }

// layout decides where inodes and the data of directories and symbolic links
// lie. It places them in the order of the RAFS v6 builder and reuses the gaps
// that blocks leave the same way, so that equal trees give equal bytes.
//
// Offsets are bytes from the meta address. The first block stays empty.
type layout struct {
	off int64 // where new data goes when no gap takes it
	// gaps[k] queues the blocks with k free nid slots at their end.
	gaps [blockSize / disk.NidSize][]int64
}

// place finds the place of every node of a numbered tree and returns the end
// of the last one.
func (t *tree) place() int64 {
	l := &layout{off: blockSize}
	l.placeNode(t.root)
	var rec func(d *node)
	rec = func(d *node) {
		for e := range d.names {
			if !e.node.isDir() && !e.node.placed {
				l.placeNode(e.node)
			}
		}
		for e := range d.names {
			if e.node.isDir() {
				l.placeNode(e.node)
				rec(e.node)
			}
		}
	}
	rec(t.root)
	return l.off
}

func (l *layout) placeNode(n *node) {
	n.placed = true
	head := disk.InodeExtendedSize + xattrAreaSize(n.xattrs)
	switch {
	case n.isDir():
		n.dirSize = dirBlocksSize(n.entries)
		l.placeWithData(n, head, n.dirSize)
	case n.isSymlink():
		l.placeWithData(n, head, int64(len(n.target)))
	case n.isRegular():
		size := up(head, 8) + disk.ChunkIndexSize*int64(len(n.chunks))
		var ok bool
		if n.pos, ok = l.take(size); !ok {
			n.pos = l.off
			l.off += size
		}
	default:
		n.pos = l.off
		l.off += head
	}
	l.off = up(l.off, disk.NidSize)
}

// inlineTail reports whether the last, partial block of size bytes of data
// lies behind the inode: inode and tail must share a block.
func inlineTail(head, size int64) bool {
	tail := size % blockSize
	return tail != 0 && head+tail <= blockSize
}

func (l *layout) placeWithData(n *node, head, size int64) {
	var ok bool
	if !inlineTail(head, size) {
		if n.pos, ok = l.take(head); !ok {
			n.pos = l.off
			l.off += head
		}
		l.skipToBlock()
		n.data = l.off
		l.off = up(l.off+size, blockSize)
		return
	}
	tail := size % blockSize
	if n.pos, ok = l.take(head + tail); !ok {
		if blockSize-l.off%blockSize < head+tail {
			l.skipToBlock()
		}
		n.pos = l.off
		l.off += head + tail
	}
	if size != tail {
		l.skipToBlock()
	}
	n.data = l.off
	l.off += size - tail
}

// skipToBlock goes on at the next block and keeps the rest of this one.
func (l *layout) skipToBlock() {
	l.give(l.off)
	l.off = up(l.off, blockSize)
}

// give offers the rest of the block at off for reuse.
func (l *layout) give(off int64) {
	if in := off % blockSize; in != 0 {
		k := (blockSize - in) / disk.NidSize
		l.gaps[k] = append(l.gaps[k], off-in)
	}
}

// take finds n bytes in a gap: the smallest that fits, the oldest of those.
func (l *layout) take(n int64) (int64, bool) {
	if n >= blockSize {
		return 0, false
	}
	need := up(n, disk.NidSize)
	for k := need / disk.NidSize; k < int64(len(l.gaps)); k++ {
		if len(l.gaps[k]) == 0 {
			continue
		}
		pos := l.gaps[k][0] + blockSize - disk.NidSize*k
		l.gaps[k] = l.gaps[k][1:]
		l.give(pos + need)
		return pos, true
	}
	return 0, false
}
