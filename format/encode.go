// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"lighter/format/internal/disk"
)

// encoding is what a bootstrap says beside its tree.
type encoding struct {
	version  int      // of RAFS; 5, or else 6
	flags    uint64   // of the superblock; what it must say besides is added
	volume   string   // volume name, at most 16 bytes
	prefetch []string // clean paths without leading slash
}

// deviceAlign is what devices are rounded up to in the flat address space.
const deviceAlign = 0x80000

// fileMap holds where the parts of a bootstrap begin, in bytes.
type fileMap struct {
	blobs, prefetch, meta, chunks, end int64
}

func (n *node) nid() uint64 { return uint64(n.pos / disk.NidSize) }

// encode writes the tree as a bootstrap. t.blobs must be the final blob table
// and t.chunks what it points to. It may be called once for a tree.
func (t *tree) encode(e encoding) ([]byte, error) {
	if len(t.blobs) > disk.MaxBlobs {
		return nil, fmt.Errorf("%d blobs, more than %d", len(t.blobs), disk.MaxBlobs)
	}
	if e.version == 5 {
		return t.encodeV5(e)
	}
	e.flags |= t.blobFlags()
	t.inos = t.number()
	if t.inos > math.MaxUint32 {
		return nil, fmt.Errorf("%d tree entries, more than %d", t.inos, uint32(math.MaxUint32))
	}
	metaEnd := t.place()
	records := t.chunkRecords()
	prefetch := t.prefetchNids(e.prefetch)

	var m fileMap
	n := int64(len(t.blobs))
	m.blobs = up(disk.DeviceSlotsOff+disk.DeviceSlotSize*n, disk.Alignment)
	if n > 0 {
		m.prefetch = m.blobs + disk.BlobEntrySize*n
		m.meta = up(m.prefetch+4*int64(len(prefetch)), disk.Alignment)
	}
	m.chunks = up(m.meta+metaEnd, disk.Alignment)
	m.end = up(m.chunks+disk.ChunkRecordSize*int64(len(records)), disk.Alignment)

	b := make([]byte, m.end)
	blocks, err := t.encodeTables(b, m, records, prefetch)
	if err != nil {
		return nil, err
	}
	s := disk.Superblock{
		Magic: disk.Magic, FeatureCompat: disk.FeatureCompat, FeatureIncompat: disk.FeatureIncompat,
		BlockBits: disk.BlockBits, RootNid: uint16(t.root.nid()), Inos: t.inos, Blocks: blocks,
		MetaBlkaddr: uint32(m.meta / blockSize), ExtraDevices: uint16(n), DevtSlotoff: disk.DeviceSlotUnits,
	}
	copy(s.VolumeName[:], e.volume)
	s.Append(b[disk.SuperblockOff:disk.SuperblockOff])
	x := disk.ExtSuperblock{
		Flags: e.flags, ChunkSize: t.chunkSize,
		BlobTableOff: uint64(m.blobs), BlobTableSize: uint32(disk.BlobEntrySize * n),
		ChunkTableOff: uint64(m.chunks), ChunkTableSize: uint64(disk.ChunkRecordSize * len(records)),
	}
	if len(prefetch) > 0 && n > 0 {
		x.PrefetchOff, x.PrefetchSize = uint64(m.prefetch), uint32(4*len(prefetch))
	}
	x.Append(b[disk.ExtSuperblockOff:disk.ExtSuperblockOff])
	t.encodeNode(b[m.meta:], t.root, m.meta)
	t.walk(func(n *node) { t.encodeNode(b[m.meta:], n, m.meta) })
	return b, nil
}

// blobFlags are the flags of the extended superblock that depend on the blobs.
func (t *tree) blobFlags() uint64 {
	flags := uint64(disk.FlagEncryptNone | disk.FlagInlinedDigests)
	for i := range t.blobs {
		if t.blobs[i].Features&disk.BlobInlinedDigests == 0 {
			flags &^= disk.FlagInlinedDigests
		}
		if t.blobs[i].Features&disk.BlobEncrypted != 0 {
			flags = flags&^disk.FlagEncryptNone | disk.FlagEncryptAES
		}
	}
	return flags
}

// encodeTables writes device slots, blob table, prefetch table and chunk
// table, and returns the blocks of all devices together.
func (t *tree) encodeTables(b []byte, m fileMap, records []disk.ChunkRecord, prefetch []uint32) (uint32, error) {
	slots, table := b[disk.DeviceSlotsOff:disk.DeviceSlotsOff], b[m.blobs:m.blobs]
	total, pos := int64(0), m.end
	for i := range t.blobs {
		blob := &t.blobs[i]
		blob.Index = uint32(i)
		size := int64(blob.UncompressedSize)
		mapped := up(pos, deviceAlign)
		pos = mapped + size
		total += size
		if pos/blockSize > math.MaxUint32 || total/blockSize > math.MaxUint32 {
			return 0, fmt.Errorf("blobs hold more than %d blocks", uint32(math.MaxUint32))
		}
		slot := disk.DeviceSlot{Tag: blob.ID, Blocks: uint32(size / blockSize), MappedBlkaddr: uint32(mapped / blockSize)}
		slots = slot.Append(slots)
		table = blob.Append(table)
	}
	for i, nid := range prefetch {
		if len(t.blobs) > 0 {
			le.PutUint32(b[m.prefetch+4*int64(i):], nid)
		}
	}
	chunks := b[m.chunks:m.chunks]
	for i := range records {
		chunks = records[i].Append(chunks)
	}
	return uint32(total / blockSize), nil
}

// encodeNode writes an inode and its data. b begins at the meta address. A
// node with several names is written again for each, with the same bytes.
func (t *tree) encodeNode(b []byte, n *node, meta int64) {
	area := xattrAreaSize(n.xattrs)
	head := disk.InodeExtendedSize + area
	i := disk.InodeExtended{
		XattrICount: xattrICount(area), Mode: uint16(n.mode), Ino: n.ino, UID: n.uid, GID: n.gid,
		Mtime: uint64(n.mtime), MtimeNsec: n.nsec, Nlink: n.nlink,
	}
	inode := b[n.pos:]
	format := uint16(disk.LayoutFlatPlain)
	var data []byte
	switch {
	case n.isDir():
		data = encodeDir(n.entries, n.dirSize)
	case n.isSymlink():
		data = []byte(n.target)
	case n.isRegular():
		format = disk.LayoutChunkBased
		i.Size, i.U = uint64(n.size), t.chunkFormat(n)
		index := inode[up(head, 8):up(head, 8)]
		for _, c := range n.chunks {
			index = t.chunkIndex(c).Append(index)
		}
	default:
		i.U = n.rdev
	}
	if data != nil {
		size := int64(len(data))
		i.Size, i.U = uint64(size), uint32((meta+n.data)/blockSize)
		whole := size
		if inlineTail(head, size) {
			format = disk.LayoutFlatInline
			whole = size / blockSize * blockSize
			copy(inode[head:], data[whole:])
		}
		copy(b[n.data:], data[:whole])
	}
	i.Format = disk.FormatExtended | format<<disk.FormatLayoutShift
	i.Append(inode[:0])
	appendXattrs(inode[disk.InodeExtendedSize:disk.InodeExtendedSize], n.xattrs)
}

func (t *tree) chunkIndex(c uint32) *disk.ChunkIndex {
	r := &t.chunks[c]
	return &disk.ChunkIndex{Chunk: r.Index, BlobPlus1: uint8(r.BlobIndex + 1), Blkaddr: uint32(r.UncompressedOff / blockSize)}
}

// chunkFormat returns the chunk format of a regular file. A file whose chunks
// lie in a row is one large chunk to EROFS.
func (t *tree) chunkFormat(n *node) uint32 {
	shift := uint32(bits.TrailingZeros32(t.chunkSize)) - disk.BlockBits
	if n.size > int64(t.chunkSize) && t.contiguous(n.chunks) {
		if s := uint32(bits.Len64(uint64(n.size-1))) - disk.BlockBits; s <= disk.ChunkFormatBits {
			shift = s
		}
	}
	return disk.ChunkFormatIndexes | shift
}

func (t *tree) contiguous(chunks []uint32) bool {
	for i := 1; i < len(chunks); i++ {
		a, b := &t.chunks[chunks[i-1]], &t.chunks[chunks[i]]
		if a.BlobIndex != b.BlobIndex || a.UncompressedOff+uint64(t.chunkSize) != b.UncompressedOff {
			return false
		}
	}
	return true
}

// chunkRecords returns the records of all chunks that files use, in the order
// of the chunk table. Their file offset is that in the last file of the walk.
func (t *tree) chunkRecords() []disk.ChunkRecord {
	used := make([]bool, len(t.chunks))
	count := 0
	t.walk(func(n *node) {
		for i, c := range n.chunks {
			t.chunks[c].FileOff = uint64(i) * uint64(t.chunkSize)
			if !used[c] {
				used[c] = true
				count++
			}
		}
	})
	// Digests differ in their first bytes: sort by those without touching the
	// records.
	type key struct {
		head  uint64
		chunk uint32
	}
	keys := make([]key, 0, count)
	for i, u := range used {
		if u {
			keys = append(keys, key{binary.BigEndian.Uint64(t.chunks[i].Digest[:]), uint32(i)})
		}
	}
	slices.SortFunc(keys, func(x, y key) int {
		if x.head != y.head {
			return cmp.Compare(x.head, y.head)
		}
		a, b := &t.chunks[x.chunk], &t.chunks[y.chunk]
		return cmp.Or(bytes.Compare(a.Digest[:], b.Digest[:]), cmp.Compare(a.BlobIndex, b.BlobIndex),
			cmp.Compare(a.Index, b.Index), cmp.Compare(x.chunk, y.chunk))
	})
	records := make([]disk.ChunkRecord, 0, count)
	for _, k := range keys {
		r := &t.chunks[k.chunk]
		if n := len(records); n == 0 || records[n-1].BlobIndex != r.BlobIndex || records[n-1].Index != r.Index {
			records = append(records, *r)
		}
	}
	return records
}

// prefetchNids returns the nids of the paths that are in the tree.
func (t *tree) prefetchNids(paths []string) []uint32 {
	var nids []uint32
	for _, p := range paths {
		if n := t.exact(p); n != nil && n.nid() <= math.MaxUint32 {
			nids = append(nids, uint32(n.nid()))
		}
	}
	return nids
}
