// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"lighter/format/internal/disk"
)

// CheckOptions tells Check how much to do. The zero value is the default.
type CheckOptions struct {
	MaxViolations int  // stop after so many; 0: 20
	Workers       int  // chunks verified at the same time; 0: one for each CPU
	SkipData      bool // read chunk tables and tables of contents of blobs, but not their chunks
}

// Report is what Check found. Counts are of distinct things unless said
// otherwise; they are complete only if nothing is wrong.
type Report struct {
	Names       uint64 // directory entries without "." and "..", and the root
	Directories uint64
	Files       uint64
	Symlinks    uint64
	Specials    uint64 // devices, FIFOs, sockets
	FileBytes   uint64 // sum of the sizes of regular files
	Blobs       uint64
	Chunks      uint64 // records of the chunk table; RAFS v5: distinct ones of files
	Verified    uint64 // chunks whose digest was compared
	Bytes       uint64 // uncompressed bytes of those

	Violations []*Error // the first ones, in the order found
}

// Err returns nil if nothing is wrong, else all violations as one error.
func (r *Report) Err() error {
	errs := make([]error, len(r.Violations))
	for i, v := range r.Violations {
		errs[i] = v
	}
	return errors.Join(errs...)
}

// Check verifies every invariant of RAFS v6 or v5 in a bootstrap: tables,
// inodes, directories as one tree, link counts, attributes, that chunk indexes
// and chunk table agree or in v5 the digests of the tree, and that all gaps and
// reserved bytes are zero. If open is not nil, it also reads every blob: the
// blob's digest, its chunk infos, its table of contents and the digest of
// every chunk. What is wrong is in the report; the error is about reading
// only. Memory is about a fiftieth of the bootstrap's size, twelve bytes for
// each chunk, and some chunks; time is bounded by the sizes of bootstrap and
// blobs, whatever they say.
func Check(b *Bootstrap, open OpenBlob, o CheckOptions) (*Report, error) {
	if o.MaxViolations <= 0 {
		o.MaxViolations = 20
	}
	c := &checker{b: b, o: o, open: open, report: &Report{},
		unit: 1, inodes: newSlots(b.size), links: map[uint64]*linkCount{}}
	steps := []func() error{c.layout, c.reserved, c.chunkTable, c.tree, c.unplaced, c.prefetch, c.gaps, c.blobs}
	if b.v5 != nil {
		c.unit = disk.NidSize / disk.V5Align
		steps = []func() error{c.layoutV5, c.treeV5, c.chunksV5, c.prefetch, c.gapsV5, c.blobs}
	} else {
		c.placed = newBitset(b.info.Chunks)
	}
	c.claimed = newSlots(b.size * c.unit)
	for _, step := range steps {
		if err := step(); err != nil && !errors.Is(err, errEnough) {
			return c.report, err
		}
		if len(c.report.Violations) >= o.MaxViolations {
			break
		}
	}
	return c.report, nil
}

// checkTables is the part of Check that concerns the tables of a bootstrap and
// what they say of blobs. Merge puts its result to it, since that repeats what
// layers claim.
func checkTables(p []byte) error {
	b, err := OpenBytes(p)
	if err != nil {
		return err
	}
	c := &checker{b: b, o: CheckOptions{MaxViolations: 1}, report: &Report{}, unit: 1, claimed: newSlots(b.size)}
	steps := []func() error{c.layout, c.chunkTable}
	if b.v5 != nil {
		c.unit = disk.NidSize / disk.V5Align
		c.claimed = newSlots(b.size * c.unit)
		steps = []func() error{c.layoutV5, c.chunksV5}
	}
	for _, step := range steps {
		if err := step(); err != nil && !errors.Is(err, errEnough) {
			return err
		}
	}
	return c.report.Err()
}

// errEnough ends a check after MaxViolations.
var errEnough = errors.New("enough violations")

type checker struct {
	b      *Bootstrap
	o      CheckOptions
	open   OpenBlob
	report *Report

	claimed slots  // of the bootstrap: taken by a structure
	unit    int64  // of claimed: slots are of 32 bytes / unit
	inodes  slots  // where an inode that was reached begins
	placed  bitset // records that a file has at their file offset
	numbers bitset // inode numbers met
	links   map[uint64]*linkCount
}

// linkCount counts the names of an inode that says it has several.
type linkCount struct{ want, got uint32 }

// found takes err into the report if it is a violation. It returns what must
// end the check: errEnough, or an error of reading.
func (c *checker) found(err error) error {
	if err == nil {
		return nil
	}
	var v *Error
	if !errors.As(err, &v) {
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		v = &Error{Structure: "image", Offset: -1, Err: ErrCorrupt, Cause: err}
	}
	c.report.Violations = append(c.report.Violations, v)
	if len(c.report.Violations) >= c.o.MaxViolations {
		return errEnough
	}
	return nil
}

// violation is found with a new error.
func (c *checker) violation(structure, field string, off int64, detail string, args ...any) error {
	return c.found(corrupt(structure, field, off, detail, args...))
}

// claim takes n bytes at off for a structure; no byte may be claimed twice,
// and what follows up to the end of a slot must be zero.
func (c *checker) claim(structure string, off, n int64) (ok bool, err error) {
	if n == 0 {
		return true, nil
	}
	if !c.claimed.set(off*c.unit, n*c.unit) {
		return false, c.violation(structure, "", off, "%d bytes overlap another structure", n)
	}
	return true, c.zero("padding", off+n, min(up(off+n, disk.NidSize/c.unit), c.b.size))
}

// layout claims the tables and checks what Open does not need.
func (c *checker) layout() error {
	b := c.b
	slots := int64(disk.DeviceSlotsOff + len(b.blobs)*disk.DeviceSlotSize)
	for _, t := range []struct {
		name   string
		off, n int64
	}{
		{"superblock and device slots", 0, slots},
		{"blob table", int64(b.ext.BlobTableOff), int64(b.ext.BlobTableSize)},
		{"prefetch table", int64(b.ext.PrefetchOff), int64(b.ext.PrefetchSize)},
		{"chunk table", int64(b.ext.ChunkTableOff), int64(b.ext.ChunkTableSize)},
	} {
		if _, err := c.claim(t.name, t.off, t.n); err != nil {
			return err
		}
	}
	if err := c.sameBytes("boot area", 0, make([]byte, disk.SuperblockOff)); err != nil {
		return err
	}
	if b.sb.BuildTime != 0 || b.sb.BuildTimeNsec != 0 || b.sb.UUID != [16]byte{} {
		if err := c.violation("superblock", "build_time, uuid", disk.SuperblockOff+24, "not zero"); err != nil {
			return err
		}
	}
	c.report.Blobs = uint64(len(b.blobs))
	end := b.size
	inlined := true
	for i, bl := range b.blobs {
		off := int64(disk.DeviceSlotsOff + i*disk.DeviceSlotSize + 68)
		// Builders before 2.3 leave out where devices are mapped.
		if bl.MappedOff < end && bl.MappedOff != 0 {
			if err := c.violation("device slot", "mapped_blkaddr", off, "blob %d at byte %d begins before byte %d", i, bl.MappedOff, end); err != nil {
				return err
			}
		}
		if bl.MappedOff != 0 {
			end = bl.MappedOff + int64(bl.UncompressedSize)
		}
		inlined = inlined && bl.Features&disk.BlobInlinedDigests != 0
		if bl.Features&disk.BlobSeparate == 0 && bl.Features&disk.BlobCapTarTOC != 0 && bl.DataSize() > bl.CompressedSize {
			if err := c.violation("blob table", "compressed_size", -1, "%d of blob %d, but chunks take %d", bl.CompressedSize, i, bl.DataSize()); err != nil {
				return err
			}
		}
	}
	if !inlined && b.ext.Flags&disk.FlagInlinedDigests != 0 {
		return c.violation("extended superblock", "flags", disk.ExtSuperblockOff, "%#x says that all blobs have digest arrays", b.ext.Flags)
	}
	return nil
}

// chunkTable checks the order of the records, and each by itself and against
// the one before it in its blob.
func (c *checker) chunkTable() error {
	b := c.b
	base := int64(b.ext.ChunkTableOff)
	c.report.Chunks = b.info.Chunks
	var last [36]byte
	for n := range uint32(b.info.Chunks) {
		off := base + int64(n)*disk.ChunkRecordSize
		p, err := b.recordBytes(n)
		if err != nil {
			return c.found(err)
		}
		var r disk.ChunkRecord
		r.Decode(p)
		var key [36]byte
		copy(key[:], r.Digest[:])
		key[32], key[33], key[34], key[35] = byte(r.BlobIndex>>24), byte(r.BlobIndex>>16), byte(r.BlobIndex>>8), byte(r.BlobIndex)
		if n > 0 && bytes.Compare(last[:], key[:]) >= 0 {
			if err := c.violation("chunk table", "digest", off, "record %d is not in order", n); err != nil {
				return err
			}
		}
		last = key
		if r.Flags&disk.RecordCRC32C == 0 && r.CRC32C != 0 {
			if err := c.violation("chunk table", "crc32c", off+76, "%#x, but flags %#x", r.CRC32C, r.Flags); err != nil {
				return err
			}
		}
		if _, err := b.chunk(&r, off); err != nil {
			if err := c.found(err); err != nil {
				return err
			}
		}
	}
	b.records.once.Do(func() { b.records.err = b.buildIndex() })
	if b.records.err != nil {
		return c.found(b.records.err)
	}
	return c.chunkRanges()
}

// chunkRanges checks that the chunks of a blob follow each other in its
// address space by their numbers.
func (c *checker) chunkRanges() error {
	b := c.b
	blob, end := uint32(0), int64(0)
	for _, n := range b.records.order {
		ch, err := b.record(n)
		if err != nil {
			continue // reported above
		}
		if ch.BlobIndex != blob {
			blob, end = ch.BlobIndex, 0
		}
		if ch.UncompressedOff < end {
			off := b.recordOff(n) + 56
			if err := c.violation("chunk table", "uncompressed_offset", off, "chunk %d of blob %d at %d begins before %d",
				ch.Index, blob, ch.UncompressedOff, end); err != nil {
				return err
			}
		}
		end = ch.UncompressedOff + int64(ch.UncompressedSize)
	}
	return nil
}

// unplaced finds records that no file has at their file offset.
func (c *checker) unplaced() error {
	if len(c.report.Violations) > 0 {
		return nil // not all files were read
	}
	for n := range c.b.info.Chunks {
		if !c.placed.has(n) {
			off := int64(c.b.ext.ChunkTableOff) + int64(n)*disk.ChunkRecordSize + 64
			if err := c.violation("chunk table", "file_offset", off, "no file has the chunk there"); err != nil {
				return err
			}
		}
	}
	return nil
}

// prefetch checks that the prefetch table names inodes of the tree.
func (c *checker) prefetch() error {
	nids, err := c.b.Prefetch()
	if err != nil {
		return c.found(err)
	}
	for k, nid := range nids {
		if off := c.b.off(nid); !c.inodes.has(off) {
			if err := c.violation("prefetch table", "nid", c.b.prefetchOff()+4*int64(k), "%d is no inode of the tree", nid); err != nil {
				return err
			}
		}
	}
	return nil
}

// String says in one line what the report counts.
func (r *Report) String() string {
	return fmt.Sprintf("%d names, %d directories, %d files, %d links, %d special files, %d blobs, %d chunks, %d verified, %d violations",
		r.Names, r.Directories, r.Files, r.Symlinks, r.Specials, r.Blobs, r.Chunks, r.Verified, len(r.Violations))
}
