// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"

	"lighter/format/internal/disk"
)

// reserved checks that the reserved bytes of the fixed structures are zero:
// what is decoded and encoded again must be what was there.
func (c *checker) reserved() error {
	b := c.b
	if err := c.sameBytes("superblock", disk.SuperblockOff, b.sb.Append(nil)); err != nil {
		return err
	}
	if err := c.sameBytes("extended superblock", disk.ExtSuperblockOff, b.ext.Append(nil)); err != nil {
		return err
	}
	for k := range int64(len(b.blobs)) {
		off := int64(b.ext.BlobTableOff) + k*disk.BlobEntrySize
		p, err := b.view("blob table", off, disk.BlobEntrySize)
		if err != nil {
			return c.found(err)
		}
		var e disk.BlobEntry
		e.Decode(p)
		if err := c.sameBytes("blob table", off, e.Append(nil)); err != nil {
			return err
		}
		off = disk.DeviceSlotsOff + k*disk.DeviceSlotSize
		if p, err = b.view("device slot", off, disk.DeviceSlotSize); err != nil {
			return c.found(err)
		}
		var s disk.DeviceSlot
		s.Decode(p)
		if err := c.sameBytes("device slot", off, s.Append(nil)); err != nil {
			return err
		}
	}
	return nil
}

// sameBytes checks that the bootstrap has p at off.
func (c *checker) sameBytes(structure string, off int64, p []byte) error {
	q, err := c.b.view(structure, off, int64(len(p)))
	if err != nil {
		return c.found(err)
	}
	for k := range p {
		if p[k] != q[k] {
			return c.violation(structure, "reserved", off+int64(k), "%#x rather than %#x", q[k], p[k])
		}
	}
	return nil
}

// zero checks that the bytes from off to end are zero.
func (c *checker) zero(what string, off, end int64) error {
	if off >= end {
		return nil
	}
	p, err := c.b.view(what, off, end-off)
	if err != nil {
		return c.found(err)
	}
	for k, x := range p {
		if x != 0 {
			return c.violation(what, "", off+int64(k), "%#x rather than zero", x)
		}
	}
	return nil
}

// dirPadding checks the bytes of a directory's blocks that are neither entry
// nor name.
func (c *checker) dirPadding(i Inode) error {
	for k := range c.b.dirBlocks(&i) {
		db, err := c.b.dirBlock(&i, k)
		if err != nil {
			return nil // the walk reports it
		}
		for e := range db.count {
			d, name, err := db.entry(e)
			if err != nil {
				return nil
			}
			if at := e*disk.DirentSize + 11; db.p[at] != 0 {
				return c.violation("directory block", "reserved", db.off+int64(at), "%#x rather than zero", db.p[at])
			}
			if e == db.count-1 {
				if err := c.zero("directory block", db.off+int64(d.NameOff)+int64(len(name)), db.off+int64(len(db.p))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// reservedInode is reserved for one inode.
func (c *checker) reservedInode(i Inode) error {
	off := c.b.off(i.Nid)
	p, err := c.b.view("inode", off, int64(i.head))
	if err != nil {
		return c.found(err)
	}
	var buf [disk.InodeExtendedSize]byte
	if i.head == disk.InodeExtendedSize {
		var d disk.InodeExtended
		d.Decode(p)
		return c.sameBytes("inode", off, d.Append(buf[:0]))
	}
	var d disk.InodeCompact
	d.Decode(p)
	return c.sameBytes("inode", off, d.Append(buf[:0]))
}

// gaps checks that everything that no structure claimed is zero.
func (c *checker) gaps() error {
	if len(c.report.Violations) > 0 {
		return nil // claims are not complete
	}
	const run = 64 * disk.NidSize
	var zeros [run]byte
	for k, taken := range c.claimed {
		off := int64(k) * run
		n := min(run, c.b.size-off)
		if n <= 0 || taken == ^uint64(0) {
			continue
		}
		p, err := c.b.view("gap", off, n)
		if err != nil {
			return c.found(err)
		}
		for s := int64(0); s*disk.NidSize < n; s++ {
			slot := p[s*disk.NidSize : min((s+1)*disk.NidSize, n)]
			if taken>>s&1 == 0 && !bytes.Equal(slot, zeros[:len(slot)]) {
				if err := c.violation("gap", "", off+s*disk.NidSize, "not zero"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
