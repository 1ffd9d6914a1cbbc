// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"encoding/binary"
	"slices"

	"lighter/format/internal/disk"
)

var le = binary.LittleEndian

// buildIndex sorts the chunk records by (blob, chunk number). Four bytes for
// each record stay, eight more are used while sorting.
func (b *Bootstrap) buildIndex() error {
	var keys []uint64
	add := func(n uint32, blob, index uint32, off int64) error {
		if uint64(blob) >= uint64(len(b.blobs)) {
			return corrupt("chunk table", "blob_index", off+32, "%d of %d blobs", blob, len(b.blobs))
		}
		if index >= b.blobs[blob].ChunkCount {
			return corrupt("chunk table", "index", off+72, "%d of %d chunks of blob %d", index, b.blobs[blob].ChunkCount, blob)
		}
		// A blob's index has 8 bits, a chunk's number 24.
		keys = append(keys, uint64(blob<<24|index)<<32|uint64(n))
		return nil
	}
	var err error
	if b.v5 != nil {
		err = b.eachRecordV5(func(n uint32, off int64, r *disk.ChunkRecord) error { return add(n, r.BlobIndex, r.Index, off) })
	} else {
		keys = make([]uint64, 0, min(b.info.Chunks, 1<<32))
		err = b.eachRecord(add)
	}
	if err != nil {
		return err
	}
	slices.Sort(keys)
	order := make([]uint32, 0, len(keys))
	first := make([]uint32, len(b.blobs)+1)
	for k, key := range keys {
		if k > 0 && keys[k-1]>>32 == key>>32 {
			if err := b.secondRecord(uint32(keys[k-1]), uint32(key)); err != nil {
				return err
			}
			continue
		}
		order = append(order, uint32(key))
		first[key>>56+1]++
	}
	for k := 1; k < len(first); k++ {
		first[k] += first[k-1]
	}
	b.records.order, b.records.first = order, first
	return nil
}

// eachRecord calls fn for the records of the chunk table.
func (b *Bootstrap) eachRecord(fn func(n uint32, blob, index uint32, off int64) error) error {
	if n := b.info.Chunks; n > 1<<32-1 {
		return corrupt("extended superblock", "chunk_table_size", disk.ExtSuperblockOff+32, "%d records are too many", n)
	}
	for k := range uint32(b.info.Chunks) {
		p, err := b.recordBytes(k)
		if err != nil {
			return err
		}
		if err := fn(k, le.Uint32(p[32:]), le.Uint32(p[72:]), b.recordOff(k)); err != nil {
			return err
		}
	}
	return nil
}

// secondRecord judges two records of one chunk: a chunk table has one, while in
// RAFS v5 each file has its own, which may differ in the file offset only.
func (b *Bootstrap) secondRecord(n, m uint32) error {
	p, err := b.recordBytes(n)
	if err != nil {
		return err
	}
	q, err := b.recordBytes(m)
	if err != nil {
		return err
	}
	blob, index := le.Uint32(q[32:]), le.Uint32(q[72:])
	if b.v5 == nil {
		return corrupt("chunk table", "index", b.recordOff(m)+72, "second record of chunk %d of blob %d", index, blob)
	}
	if !bytes.Equal(p[:64], q[:64]) || !bytes.Equal(p[72:], q[72:]) {
		return corrupt("chunk", "", b.recordOff(m), "chunk %d of blob %d differs from the one at %d", index, blob, b.recordOff(n))
	}
	return nil
}
