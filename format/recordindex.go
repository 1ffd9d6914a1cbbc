// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/binary"
	"slices"

	"lighter/format/internal/disk"
)

var le = binary.LittleEndian

// buildIndex sorts the records of the chunk table by (blob, chunk number).
// Four bytes for each record stay, eight more are used while sorting.
func (b *Bootstrap) buildIndex() error {
	n := b.info.Chunks
	if n > 1<<32-1 {
		return corrupt("extended superblock", "chunk_table_size", disk.ExtSuperblockOff+32, "%d records are too many", n)
	}
	keys := make([]uint64, n)
	for k := range keys {
		p, err := b.recordBytes(uint32(k))
		if err != nil {
			return err
		}
		blob, index := le.Uint32(p[32:]), le.Uint32(p[72:])
		off := int64(b.ext.ChunkTableOff) + int64(k)*disk.ChunkRecordSize
		if uint64(blob) >= uint64(len(b.blobs)) {
			return corrupt("chunk table", "blob_index", off+32, "%d of %d blobs", blob, len(b.blobs))
		}
		if index >= b.blobs[blob].ChunkCount {
			return corrupt("chunk table", "index", off+72, "%d of %d chunks of blob %d", index, b.blobs[blob].ChunkCount, blob)
		}
		// A blob's index has 8 bits, a chunk's number 24.
		keys[k] = uint64(blob<<24|index)<<32 | uint64(k)
	}
	slices.Sort(keys)
	order := make([]uint32, n)
	first := make([]uint32, len(b.blobs)+1)
	for k, key := range keys {
		order[k] = uint32(key)
		first[key>>56+1]++
		if k > 0 && keys[k-1]>>32 == key>>32 {
			off := int64(b.ext.ChunkTableOff) + int64(order[k])*disk.ChunkRecordSize
			return corrupt("chunk table", "index", off+72, "second record of chunk %d of blob %d", key>>32&0xFFFFFF, key>>56)
		}
	}
	for k := 1; k < len(first); k++ {
		first[k] += first[k-1]
	}
	b.records.order, b.records.first = order, first
	return nil
}
