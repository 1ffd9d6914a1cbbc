// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"

	"lighter/format/internal/disk"
)

// layoutV5 claims superblock and tables of RAFS v5, whose reserved bytes must
// be zero.
func (c *checker) layoutV5() error {
	b := c.b
	if _, err := c.claim("superblock", 0, disk.V5SuperblockSize); err != nil {
		return err
	}
	if err := c.sameBytes("superblock", 0, b.v5.Append(nil)); err != nil {
		return err
	}
	for _, t := range b.v5Tables() {
		if _, err := c.claim(t.field, int64(t.off), int64(t.end-t.off)); err != nil {
			return err
		}
	}
	c.report.Blobs = uint64(len(b.blobs))
	for i := range b.blobs {
		if b.v5.Blobs == 0 {
			break
		}
		off := b.blobEntryOff(uint32(i))
		p, err := b.view("extended blob table", off, disk.V5BlobSize)
		if err != nil {
			return c.found(err)
		}
		var e disk.V5Blob
		e.Decode(p)
		if err := c.sameBytes("extended blob table", off, e.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// treeV5 checks every record of the inode table by itself, then that
// directories share them out, each once.
func (c *checker) treeV5() error {
	c.report.Names = uint64(c.b.v5.Names)
	owned := newBitset(c.report.Names + 1)
	owned.add(c.b.info.RootNid)
	firsts := uint64(0)
	for index := uint64(1); index <= c.report.Names; index++ {
		r, err := c.b.recordV5(index)
		var i Inode
		if err == nil {
			i, err = c.b.inodeV5(&r)
		}
		if err != nil {
			if err := c.found(err); err != nil {
				return err
			}
			continue
		}
		if ok, err := c.claim("inode", r.off, i.v5.recordEnd(&i)-r.off); !ok {
			return err
		}
		if err := c.recordV5(&r, &i); err != nil {
			return err
		}
		if r.Ino != index {
			err = c.hardLinkV5(&r, &i)
		} else {
			firsts++
			c.inodes.set(r.off, 1)
			err = c.inodeV5(&r, &i, owned)
		}
		if err != nil {
			return err
		}
	}
	if len(c.report.Violations) > 0 {
		return nil // what follows counts what was not read
	}
	for index := uint64(1); index <= c.report.Names; index++ {
		if !owned.has(index) {
			return c.violation("inode table", "", c.b.off(index), "inode %d is in no directory", index)
		}
	}
	// Builders before 2.3 do not count the root.
	if n := c.b.v5.Inodes; n != firsts && n+1 != firsts {
		return c.violation("superblock", "inodes_count", 24, "%d, but there are %d", c.b.v5.Inodes, firsts)
	}
	for nid, n := range c.links {
		if n.got != n.want {
			if err := c.violation("inode", "i_nlink", c.b.off(nid)+88, "%d, but inode %d has %d names", n.want, nid, n.got); err != nil {
				return err
			}
		}
	}
	return c.digestsV5()
}

// recordV5 checks what every name has, the first of an inode or not.
func (c *checker) recordV5(r *v5Record, i *Inode) error {
	if name := string(r.name); r.index == 1 && name != "/" {
		return c.violation("inode", "name", r.off+disk.V5InodeSize, "the root has name %q", name)
	}
	const known = disk.V5Symlink | disk.V5HardLink | disk.V5HasXattr | disk.V5HasHole
	if r.Flags&^known != 0 || (r.Flags&disk.V5Symlink != 0) != i.IsSymlink() {
		return c.violation("inode", "i_flags", r.off+80, "%#x of inode %d with mode %#o", r.Flags, i.Nid, i.Mode)
	}
	if err := c.sameBytes("inode", r.off, r.Append(nil)); err != nil {
		return err
	}
	name := r.off + disk.V5InodeSize + int64(len(r.name))
	if err := c.zero("inode name", name, up(name, disk.V5Align)); err != nil {
		return err
	}
	link := r.off + int64(i.v5.names)
	if err := c.zero("link target", link-up(int64(r.LinkLen), disk.V5Align)+int64(r.LinkLen), link); err != nil {
		return err
	}
	if i.v5.xattrs {
		at := link + 8 + int64(i.xattr)
		if err := c.zero("xattr area", at, up(at, disk.V5Align)); err != nil {
			return err
		}
	}
	return nil
}

// hardLinkV5 compares a further name with the first one.
func (c *checker) hardLinkV5(r *v5Record, i *Inode) error {
	first, err := c.b.recordV5(r.Ino)
	var j Inode
	if err == nil {
		j, err = c.b.inodeV5(&first)
	}
	if err != nil {
		return c.found(err)
	}
	var p, q []byte
	if p, err = c.b.bodyV5(i); err == nil {
		q, err = c.b.bodyV5(&j)
	}
	if err != nil {
		return c.found(err)
	}
	own := func(r *v5Record) disk.V5Inode {
		x := r.V5Inode
		x.Parent, x.NameLen, x.Flags = 0, 0, x.Flags&^disk.V5HardLink
		return x
	}
	if own(r) != own(&first) || !bytes.Equal(p, q) {
		return c.violation("inode", "", r.off, "%q is a name of inode %d, but differs from the first one", r.name, r.Ino)
	}
	if n := c.links[r.Ino]; n != nil {
		n.got++
	} else if i.IsRegular() {
		return c.violation("inode", "i_nlink", first.off+88, "%d, but inode %d has several names", first.Nlink, r.Ino)
	}
	return nil
}

// bodyV5 returns what follows the name of a record.
func (b *Bootstrap) bodyV5(i *Inode) ([]byte, error) {
	off := i.v5.off + int64(i.v5.names)
	if i.IsSymlink() {
		off -= up(i.Size, disk.V5Align)
	}
	return b.view("inode", off, i.v5.recordEnd(i)-off)
}

// inodeV5 checks an inode at its first name. Directories take their children
// out of what nobody owned.
func (c *checker) inodeV5(r *v5Record, i *Inode, owned bitset) error {
	if err := c.attributes(*i); err != nil {
		return err
	}
	switch {
	case i.IsDir():
		c.report.Directories++
		return c.childrenV5(i, owned)
	case i.IsRegular():
		c.report.Files++
		c.report.FileBytes += uint64(i.Size)
		if err := c.found(c.b.FileChunks(*i, 0, i.Size, func(int64, Chunk) bool { return true })); err != nil {
			return err
		}
	case i.IsSymlink():
		c.report.Symlinks++
		if _, err := c.b.Readlink(*i); err != nil {
			return c.found(err)
		}
	default:
		c.report.Specials++
		if i.Size != 0 {
			return c.violation("inode", "i_size", r.off+64, "special file of %d bytes", i.Size)
		}
	}
	if i.Nlink > 1 {
		c.links[i.Nid] = &linkCount{want: i.Nlink, got: 1}
	}
	return nil
}

func (c *checker) childrenV5(dir *Inode, owned bitset) error {
	subdirs := uint32(0)
	next := uint64(dir.v5.first)
	var failed error
	err := c.b.direntsV5(dir, v5Dots, func(_ int, d Dirent) bool {
		if owned.has(next) {
			failed = c.violation("inode", "i_child_index", dir.v5.off+92, "inode %d of directory %d is in another one, too", next, dir.Nid)
			return false
		}
		owned.add(next)
		next++
		if d.Type == DTDir {
			subdirs++
		}
		return true
	})
	if failed != nil {
		return failed
	}
	if err != nil || next != uint64(dir.v5.first)+uint64(dir.v5.count) {
		return c.found(err)
	}
	if dir.Nlink != 2+subdirs {
		return c.violation("inode", "i_nlink", dir.v5.off+88, "%d, but directory %d has %d directories", dir.Nlink, dir.Nid, subdirs)
	}
	return nil
}

// digestsV5 checks the digest tree. A directory's digest is of those that its
// children's records say, which are checked themselves.
func (c *checker) digestsV5() error {
	h := c.b.info.Digester.New()
	for index := uint64(1); index <= c.report.Names; index++ {
		r, err := c.b.recordV5(index)
		if err != nil {
			return c.found(err)
		}
		i, err := c.b.inodeV5(&r)
		if err != nil {
			return c.found(err)
		}
		h.Reset()
		switch {
		case i.IsDir():
			for k := range int(i.v5.count) {
				var child v5Record
				if child, err = c.b.childV5(&i, k); err != nil {
					break
				}
				h.Write(child.Digest[:])
			}
		case i.IsSymlink():
			var target string
			target, err = c.b.Readlink(i)
			h.Write([]byte(target))
		case i.IsRegular():
			err = c.b.FileChunks(i, 0, i.Size, func(_ int64, ch Chunk) bool {
				h.Write(ch.Digest[:])
				return true
			})
		}
		if err != nil {
			return c.found(err)
		}
		if sum := h.Sum(nil); !bytes.Equal(sum, r.Digest[:]) {
			if err := c.violation("inode", "i_digest", r.off, "%x, but inode %d has %s digest %x", r.Digest, index, c.b.info.Digester, sum); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunksV5 compares the records that files have of the same chunks.
func (c *checker) chunksV5() error {
	b := c.b
	b.records.once.Do(func() { b.records.err = b.buildIndex() })
	if b.records.err != nil {
		return c.found(b.records.err)
	}
	c.report.Chunks = uint64(len(b.records.order))
	for _, n := range b.records.order {
		ch, err := b.record(n)
		if err != nil {
			return c.found(err)
		}
		if ch.flags&disk.RecordCRC32C == 0 && ch.crc != 0 {
			if err := c.violation("chunk", "crc32c", b.recordOff(n)+76, "%#x, but flags %#x", ch.crc, ch.flags); err != nil {
				return err
			}
		}
	}
	return c.chunkRanges()
}

// gapsV5 checks that everything that no structure claimed is zero.
func (c *checker) gapsV5() error {
	if len(c.report.Violations) > 0 {
		return nil // claims are not complete
	}
	for off := int64(0); off < c.b.size; off += disk.V5Align {
		if c.claimed.has(off * c.unit) {
			continue
		}
		if err := c.zero("gap", off, off+disk.V5Align); err != nil {
			return err
		}
	}
	return nil
}
