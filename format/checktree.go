// SPDX-License-Identifier: Apache-2.0

package format

import (
	"lighter/format/internal/disk"
)

// checkDir is a directory on the way from the root to where the check is.
type checkDir struct {
	i       Inode
	pos     int // where Dirents goes on
	subdirs uint32
	dot     bool
	dotdot  bool
}

// tree walks the tree from the root, each inode once.
func (c *checker) tree() error {
	// An entry takes twelve bytes and a name.
	if entries := uint64(c.b.size) / (disk.DirentSize + 1); c.b.sb.Inos > entries {
		return c.violation("superblock", "inos", disk.SuperblockOff+16, "%d, but the bootstrap has room for %d at most", c.b.sb.Inos, entries)
	}
	c.numbers = newBitset(c.b.sb.Inos + 1)
	root, err := c.b.Inode(c.b.info.RootNid)
	if err != nil {
		return c.found(err)
	}
	c.report.Names = 1
	descend, err := c.inode(root)
	if err != nil || !descend {
		return err
	}
	stack := []checkDir{{i: root}}
	for len(stack) > 0 {
		d := &stack[len(stack)-1]
		child, err := c.directory(d, stack)
		if err != nil {
			return err
		}
		if child != nil {
			stack = append(stack, checkDir{i: *child})
			continue
		}
		if err := c.leaveDirectory(d); err != nil {
			return err
		}
		stack = stack[:len(stack)-1]
	}
	for nid, n := range c.links {
		if n.got != n.want {
			if err := c.violation("inode", "i_nlink", c.b.off(nid), "%d, but inode %d has %d names", n.want, nid, n.got); err != nil {
				return err
			}
		}
	}
	if c.report.Names != c.b.sb.Inos && len(c.report.Violations) == 0 {
		return c.violation("superblock", "inos", disk.SuperblockOff+16, "%d, but the tree has %d entries", c.b.sb.Inos, c.report.Names)
	}
	return nil
}

// directory goes on with the entries of d up to the next one that is a
// directory, which it returns; nil at the end.
func (c *checker) directory(d *checkDir, stack []checkDir) (next *Inode, err error) {
	walkErr := c.b.Dirents(d.i, d.pos, func(at int, e Dirent) bool {
		d.pos = at + 1
		var child Inode
		if child, err = c.b.Child(d.i, e); err != nil {
			err = c.found(err)
			return err == nil
		}
		switch e.Name {
		case ".":
			d.dot = true
			return true
		case "..":
			d.dotdot = true
			parent := d.i.Nid
			if len(stack) > 1 {
				parent = stack[len(stack)-2].i.Nid
			}
			if e.Nid != parent {
				err = c.violation("directory", "..", c.b.off(d.i.Nid), "%d, but directory %d is below %d", e.Nid, d.i.Nid, parent)
			}
			return err == nil
		}
		c.report.Names++
		if child.IsDir() {
			d.subdirs++
		}
		var descend bool
		if descend, err = c.name(child); descend {
			next = &child
		}
		return err == nil && next == nil
	})
	if err != nil || next != nil {
		return next, err
	}
	if walkErr != nil {
		d.pos = -1 // the rest is lost, and so are the counts
	}
	return nil, c.found(walkErr)
}

// leaveDirectory checks what is known after all entries.
func (c *checker) leaveDirectory(d *checkDir) error {
	if d.pos < 0 {
		return nil
	}
	off := c.b.off(d.i.Nid)
	if !d.dot || !d.dotdot {
		if err := c.violation("directory", "", off, "directory %d lacks . or ..", d.i.Nid); err != nil {
			return err
		}
	}
	if d.i.Nlink != 2+d.subdirs {
		return c.violation("inode", "i_nlink", off, "%d, but directory %d has %d directories", d.i.Nlink, d.i.Nid, d.subdirs)
	}
	return nil
}

// name counts a name of an inode, and checks the inode when it is the first.
// It reports whether the inode is a directory to descend into.
func (c *checker) name(i Inode) (descend bool, err error) {
	if n := c.links[i.Nid]; n != nil {
		n.got++
		return false, nil
	}
	if !c.inodes.has(c.b.off(i.Nid)) {
		return c.inode(i)
	}
	if i.IsDir() {
		return false, c.violation("directory", "nid", c.b.off(i.Nid), "directory %d has two names", i.Nid)
	}
	if !i.IsRegular() {
		return false, nil // builders give 1 to links and devices, however many names
	}
	return false, c.violation("inode", "i_nlink", c.b.off(i.Nid), "%d, but inode %d has two names", i.Nlink, i.Nid)
}

// inode checks an inode that was not met before and claims its bytes.
func (c *checker) inode(i Inode) (descend bool, err error) {
	b, off := c.b, c.b.off(i.Nid)
	body := int64(i.head) + int64(i.xattr)
	switch {
	case i.IsRegular():
		if n := b.chunkCount(&i); n > 0 {
			body = b.indexOff(&i) + n*disk.ChunkIndexSize - off
		}
	case i.IsDir() || i.IsSymlink():
		body += i.Size - b.fullSize(&i)
	}
	if ok, err := c.claim("inode", off, body); !ok {
		return false, err
	}
	c.inodes.set(off, 1)
	if full := b.fullSize(&i); full > 0 && (i.IsDir() || i.IsSymlink()) {
		what := "directory block"
		if i.IsSymlink() {
			what = "link target"
		}
		if ok, err := c.claim(what, int64(i.u)<<b.blkBits, full); !ok {
			return false, err
		}
	}
	for _, step := range []func(Inode) error{c.number, c.reservedInode, c.attributes} {
		if err := step(i); err != nil {
			return false, err
		}
	}
	if !i.IsDir() && i.Nlink > 1 {
		c.links[i.Nid] = &linkCount{want: i.Nlink, got: 1}
	} else if i.Nlink == 0 {
		if err := c.violation("inode", "i_nlink", off, "inode %d has no link", i.Nid); err != nil {
			return false, err
		}
	}
	return i.IsDir(), c.content(i)
}

// number checks that the inode's number is its own.
func (c *checker) number(i Inode) error {
	off := c.b.off(i.Nid) + 20
	if i.Ino == 0 || uint64(i.Ino) > c.b.sb.Inos {
		return c.violation("inode", "i_ino", off, "%d is not within 1 to %d", i.Ino, c.b.sb.Inos)
	}
	if i.Nid == c.b.info.RootNid && i.Ino == 2 {
		return nil // builders before 2.3 give the root the number of its first entry
	}
	if c.numbers.has(uint64(i.Ino)) {
		return c.violation("inode", "i_ino", off, "inode %d and another one both have %d", i.Nid, i.Ino)
	}
	c.numbers.add(uint64(i.Ino))
	return nil
}

func (c *checker) attributes(i Inode) error {
	if _, err := c.b.Xattrs(i); err != nil {
		return c.found(err)
	}
	if i.HasXattrs() && c.b.ext.Flags&disk.FlagHasXattr == 0 {
		return c.violation("extended superblock", "flags", disk.ExtSuperblockOff, "%#x says that no inode has xattrs, but %d has", c.b.ext.Flags, i.Nid)
	}
	return nil
}

// content counts the inode and checks chunks or link target.
func (c *checker) content(i Inode) error {
	switch {
	case i.IsDir():
		c.report.Directories++
		return c.dirPadding(i)
	case i.IsSymlink():
		c.report.Symlinks++
		_, err := c.b.Readlink(i)
		return c.found(err)
	case i.IsRegular():
		c.report.Files++
		c.report.FileBytes += uint64(i.Size)
		return c.file(i)
	default:
		c.report.Specials++
	}
	return nil
}

// file joins all chunk indexes of a file with the chunk table. A chunk format
// with larger chunks than the image's promises the kernel that the file's
// chunks are contiguous.
func (c *checker) file(i Inode) error {
	b := c.b
	if begin := b.indexOff(&i); i.Size > 0 {
		if err := c.zero("padding", b.tail(&i), begin); err != nil {
			return err
		}
	}
	kernel := int64(1) << (b.blkBits + uint(i.u&disk.ChunkFormatBits))
	off := b.off(i.Nid)
	if i.Size > 0 && kernel < int64(b.ext.ChunkSize) || kernel > int64(b.ext.ChunkSize) && i.Size > kernel {
		if err := c.violation("inode", "i_u", off+16, "chunk format %#x of a file of %d bytes", i.u, i.Size); err != nil {
			return err
		}
	}
	var first Chunk
	contiguous := true
	err := b.FileChunks(i, 0, i.Size, func(fileOff int64, ch Chunk) bool {
		if fileOff == 0 {
			first = ch
		}
		if ch.fileOff == uint64(fileOff) {
			c.placed.add(uint64(ch.record))
		}
		contiguous = contiguous && ch.BlobIndex == first.BlobIndex && ch.UncompressedOff == first.UncompressedOff+fileOff
		return true
	})
	if err == nil && kernel > int64(b.ext.ChunkSize) && !contiguous {
		err = corrupt("inode", "i_u", off+16, "chunk format %#x, but the chunks of inode %d are not contiguous", i.u, i.Nid)
	}
	return c.found(err)
}
