// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/binary"

	"lighter/format/internal/disk"
)

// victim is a golden bootstrap with what is needed to damage it.
type victim struct {
	b    *Bootstrap
	boot []byte // a copy to be damaged
}

func (v *victim) u16(off int64, x uint16) { binary.LittleEndian.PutUint16(v.boot[off:], x) }
func (v *victim) u32(off int64, x uint32) { binary.LittleEndian.PutUint32(v.boot[off:], x) }
func (v *victim) u64(off int64, x uint64) { binary.LittleEndian.PutUint64(v.boot[off:], x) }

func (v *victim) inode(path string) Inode {
	i, err := v.b.LookupPath(path)
	if err != nil {
		panic(err)
	}
	return i
}

// at is where the inode of path lies.
func (v *victim) at(path string) int64 { return v.b.off(v.inode(path).Nid) }

// dirent is where entry name of directory dir lies, and where its name does.
func (v *victim) dirent(dir, name string) (off, nameOff int64) {
	i := v.inode(dir)
	for k := range v.b.dirBlocks(&i) {
		db, err := v.b.dirBlock(&i, k)
		if err != nil {
			panic(err)
		}
		for e := range db.count {
			d, n, err := db.entry(e)
			if err != nil {
				panic(err)
			}
			if string(n) == name {
				return db.off + int64(e)*disk.DirentSize, db.off + int64(d.NameOff)
			}
		}
	}
	panic("no entry " + name)
}

func (v *victim) index(path string) int64 {
	i := v.inode(path)
	return v.b.indexOff(&i)
}

// sb, ext, blob, slot and record are where the fixed structures begin.
const (
	sb  = disk.SuperblockOff
	ext = disk.ExtSuperblockOff
)

func (v *victim) blob(k int64) int64   { return int64(v.b.ext.BlobTableOff) + k*disk.BlobEntrySize }
func (v *victim) slot(k int64) int64   { return disk.DeviceSlotsOff + k*disk.DeviceSlotSize }
func (v *victim) record(k int64) int64 { return int64(v.b.ext.ChunkTableOff) + k*disk.ChunkRecordSize }

// damages are ways to lie: where the error must be found, as text of it.
var damages = []struct {
	name string
	do   func(v *victim)
	want string
}{
	{"magic", func(v *victim) { v.u32(sb, 1) }, "superblock: magic"},
	{"checksum", func(v *victim) { v.u32(sb+4, 1) }, "superblock: checksum"},
	{"plain erofs", func(v *victim) { v.u32(sb+8, 0) }, "superblock: feature_compat"},
	{"block size", func(v *victim) { v.boot[sb+12] = 63 }, "superblock: blkszbits"},
	{"tarfs", func(v *victim) { v.boot[sb+12] = 9 }, "tarfs"},
	{"ext slots", func(v *victim) { v.boot[sb+13] = 1 }, "superblock: sb_extslots"},
	{"root is no inode", func(v *victim) { v.u16(sb+14, 0xffff) }, "inode: nid"},
	{"root is a file", func(v *victim) { v.u16(sb+14, uint16(v.inode("bin/su").Nid)) }, "root_nid"},
	{"no inodes", func(v *victim) { v.u64(sb+16, 0) }, "superblock: inos"},
	{"blocks", func(v *victim) { v.u32(sb+36, 1) }, "superblock: blocks"},
	{"meta address", func(v *victim) { v.u32(sb+40, 0xffffffff) }, "meta_blkaddr"},
	{"xattr address", func(v *victim) { v.u32(sb+44, 1) }, "xattr_blkaddr"},
	{"incompatible feature", func(v *victim) { v.u32(sb+80, 0xd) }, "feature_incompat"},
	{"lz4 distance", func(v *victim) { v.u16(sb+84, 1) }, "lz4_max_distance"},
	{"devices beyond limit", func(v *victim) { v.u16(sb+86, 0xffff) }, "extra_devices"},
	{"one device less", func(v *victim) { v.u16(sb+86, v.b.sb.ExtraDevices-1) }, "blob_table_size"},
	{"slot offset", func(v *victim) { v.u16(sb+88, 12) }, "devt_slotoff"},

	{"unknown flag", func(v *victim) { v.u64(ext, v.b.ext.Flags|1<<40) }, "extended superblock: flags"},
	{"two compressors", func(v *victim) { v.u64(ext, v.b.ext.Flags|0xc3) }, "one compressor"},
	{"two digests", func(v *victim) { v.u64(ext, v.b.ext.Flags|0xc) }, "one digest"},
	{"blob table beyond the end", func(v *victim) { v.u64(ext+8, 0xfffffffffffff000) }, "blob_table_offset"},
	{"blob table unaligned", func(v *victim) { v.u64(ext+8, v.b.ext.BlobTableOff+1) }, "blob_table_offset"},
	{"blob table in the superblock", func(v *victim) { v.u64(ext+8, 0) }, "blob_table_offset"},
	{"blob table size", func(v *victim) { v.u32(ext+16, 0xffffff00) }, "blob_table_size"},
	{"chunk size 0", func(v *victim) { v.u32(ext+20, 0) }, "chunk_size"},
	{"chunk size 2 GiB", func(v *victim) { v.u32(ext+20, 1<<31) }, "chunk_size"},
	{"chunk size odd", func(v *victim) { v.u32(ext+20, 0x100001) }, "chunk_size"},
	{"chunk table beyond the end", func(v *victim) { v.u64(ext+24, 1<<63) }, "chunk_table_offset"},
	{"ten billion chunks", func(v *victim) { v.u64(ext+32, 80*10_000_000_000) }, "chunk_table_offset"},
	{"chunk table size wraps", func(v *victim) { v.u64(ext+32, (1<<64-80)/80*80) }, "chunk_table_offset"},
	{"chunk table part of a record", func(v *victim) { v.u64(ext+32, 81) }, "chunk_table_size"},
	{"chunk table over blob table", func(v *victim) { v.u64(ext+24, v.b.ext.BlobTableOff) }, "overlaps"},
	{"prefetch beyond the end", func(v *victim) { v.u64(ext+40, 1<<62); v.u32(ext+48, 4) }, "prefetch_table_offset"},
	{"prefetch table of 4 GiB", func(v *victim) { v.u64(ext+40, 4096*2); v.u32(ext+48, 0xfffffffc) }, "prefetch_table_offset"},
	{"prefetch unaligned", func(v *victim) { v.u64(ext+40, 8193) }, "prefetch_table_offset"},
	{"prefetch without place", func(v *victim) { v.u64(ext+40, 0); v.u32(ext+48, 4) }, "prefetch_table_size"},

	{"slot tag", func(v *victim) { v.boot[v.slot(0)] ^= 1 }, "device slot: tag"},
	{"slot blocks", func(v *victim) { v.u32(v.slot(0)+64, 0) }, "device slot: blocks"},
	{"blob id empty", func(v *victim) { copy(v.boot[v.blob(0):], make([]byte, 64)) }, "blob_id"},
	{"blob id with slash", func(v *victim) { v.boot[v.blob(0)+3] = '/' }, "blob_id"},
	{"blob id unprintable", func(v *victim) { v.boot[v.blob(0)+3] = 7 }, "blob_id"},
	{"blob index", func(v *victim) { v.u32(v.blob(0)+64, 1) }, "blob_index"},
	{"blob chunk size", func(v *victim) { v.u32(v.blob(0)+68, 4096) }, "blob table: chunk_size"},
	{"blob without chunks", func(v *victim) { v.u32(v.blob(0)+72, 0) }, "chunk_count"},
	{"blob of too many chunks", func(v *victim) { v.u32(v.blob(0)+72, 1<<24+1) }, "chunk_count"},
	{"blob of other count", func(v *victim) { v.u32(v.blob(0)+72, 1<<20) }, "ci_uncompressed_size"},
	{"blob compressor", func(v *victim) { v.u32(v.blob(0)+76, 4) }, "compressor"},
	{"blob digester", func(v *victim) { v.u32(v.blob(0)+80, 2) }, "digester"},
	{"blob feature", func(v *victim) { v.u32(v.blob(0)+84, 0x70001021) }, "features"},
	{"blob encrypted", func(v *victim) { v.u32(v.blob(0)+84, 0x70000125) }, "features"},
	{"blob not aligned", func(v *victim) { v.u32(v.blob(0)+84, 0x70000020) }, "features"},
	{"batch without v2", func(v *victim) { v.u32(v.blob(0)+84, 0x700000a1) }, "features"},
	{"blob compressed size", func(v *victim) { v.u64(v.blob(0)+88, 1<<40+1) }, "compressed_size"},
	{"blob uncompressed size", func(v *victim) { v.u64(v.blob(0)+96, 1<<63) }, "uncompressed_size"},
	{"blob ci compressor", func(v *victim) { v.u32(v.blob(0)+108, 77) }, "ci_compressor"},
	{"blob ci offset", func(v *victim) { v.u64(v.blob(0)+112, 1<<63) }, "ci_offset"},
	{"blob ci offset 0", func(v *victim) { v.u64(v.blob(0)+112, 0) }, "ci_offset"},
	{"blob ci size", func(v *victim) { v.u64(v.blob(0)+120, 1<<40) }, "ci_compressed_size"},
	{"blob ci inflated size", func(v *victim) { v.u64(v.blob(0)+128, 1<<50) }, "ci_uncompressed_size"},

	{"inode format", func(v *victim) { v.u16(v.at("bin/su"), 0xffff) }, "inode: i_format"},
	{"file with inline data", func(v *victim) { v.u16(v.at("bin/su"), 0x5) }, "inode: i_format"},
	{"directory of chunks", func(v *victim) { v.u16(v.at("bin"), 0x9) }, "inode: i_format"},
	{"xattrs beyond the end", func(v *victim) { v.u16(v.at("bin/su2")+2, 0xffff) }, "offset"},
	{"mode without type", func(v *victim) { v.u16(v.at("bin/su")+4, 0o644) }, "i_mode"},
	{"file that is a directory", func(v *victim) { v.u16(v.at("bin/su")+4, 0o40755) }, "offset"},
	{"size of 2^63", func(v *victim) { v.u64(v.at("bin/su")+8, 1<<63) }, "i_size"},
	{"size of 2^63 - 1", func(v *victim) { v.u64(v.at("bin/su")+8, 1<<63-1) }, "i_size"},
	{"one byte more", func(v *victim) { v.u64(v.at("bin/su")+8, uint64(v.inode("bin/su").Size)+1) }, "chunk index"},
	{"one chunk more", func(v *victim) { v.u64(v.at("bin/su")+8, 1<<20+1) }, "offset"},
	{"chunk format", func(v *victim) { v.u32(v.at("bin/su")+16, 0) }, "i_u"},
	{"nanoseconds", func(v *victim) { v.u32(v.at("bin/su")+40, 1e9) }, "i_mtime_nsec"},
	{"directory size", func(v *victim) { v.u64(v.at("bin")+8, 1<<40) }, "i_size"},
	{"directory tail crosses its block", func(v *victim) { v.u64(v.at("bin")+8, 4096) }, "i_size"},
	{"directory blocks beyond the end", func(v *victim) { v.u16(v.at("bin"), 1); v.u32(v.at("bin")+16, 0xffffffff) }, "i_u"},

	{"entry name offset 0", func(v *victim) { o, _ := v.dirent("bin", "."); v.u16(o+8, 0) }, "nameoff"},
	{"entry name offset odd", func(v *victim) { o, _ := v.dirent("bin", "."); v.u16(o+8, 13) }, "nameoff"},
	{"entry name offset beyond", func(v *victim) { o, _ := v.dirent("bin", "."); v.u16(o+8, 0xfffc) }, "nameoff"},
	{"entry name offsets swapped", func(v *victim) { o, _ := v.dirent("bin", "su"); v.u16(o+8, 0xffff) }, "nameoff"},
	{"name with slash", func(v *victim) { _, o := v.dirent("bin", "alias"); v.boot[o+1] = '/' }, "has a slash"},
	{"name with NUL", func(v *victim) { _, o := v.dirent("bin", "alias"); v.boot[o+1] = 0 }, "has a NUL"},
	{"name is ..", func(v *victim) { _, o := v.dirent("bin", "su"); v.boot[o], v.boot[o+1] = '.', '.' }, "follows"},
	{"names not sorted", func(v *victim) { _, o := v.dirent("bin", "alias"); v.boot[o] = 'z' }, ""},
	{"entry type 0", func(v *victim) { o, _ := v.dirent("bin", "su"); v.boot[o+10] = 0 }, "file_type"},
	{"entry type 8", func(v *victim) { o, _ := v.dirent("bin", "su"); v.boot[o+10] = 8 }, "file_type"},
	{"entry type other", func(v *victim) { o, _ := v.dirent("bin", "su"); v.boot[o+10] = 2 }, "i_mode"},
	{"entry beyond the end", func(v *victim) { o, _ := v.dirent("bin", "su"); v.u64(o, 1<<59) }, "inode: nid"},
	{"entry wraps", func(v *victim) { o, _ := v.dirent("bin", "su"); v.u64(o, 1<<64-1) }, "inode: nid"},
	{"directory below itself", func(v *victim) { o, _ := v.dirent("deep/d0", "d1"); v.u64(o, v.inode("deep/d0").Nid) }, "directory"},
	{"directory is its parent", func(v *victim) { o, _ := v.dirent("deep/d0", "d1"); v.u64(o, v.inode("deep").Nid) }, "directory"},
	{"directory is the root", func(v *victim) { o, _ := v.dirent("deep/d0", "d1"); v.u64(o, v.b.info.RootNid) }, "directory"},
	{"directory below two", func(v *victim) { o, _ := v.dirent("deep/d0", "d1"); v.u64(o, v.inode("bin").Nid) }, "directory"},
	{". is another", func(v *victim) { o, _ := v.dirent("bin", "."); v.u64(o, v.inode("deep").Nid) }, "directory"},

	{"xattr value size", func(v *victim) { v.u16(v.at("bin/su2")+64+12+2, 0xffff) }, "e_value_size"},
	{"xattr shared", func(v *victim) { v.boot[v.at("bin/su2")+64+4] = 1 }, "h_shared_count"},
	{"xattr name with NUL", func(v *victim) { v.boot[v.at("bin/su2")+64+16] = 0 }, "e_name"},

	{"index without blob", func(v *victim) { v.boot[v.index("bin/su")+2] = 0 }, "chunk index: device"},
	{"index of blob 254", func(v *victim) { v.boot[v.index("bin/su")+2] = 255 }, "chunk index: device"},
	{"index of chunk 2^24-1", func(v *victim) { v.u16(v.index("bin/su"), 0xffff); v.boot[v.index("bin/su")+3] = 0xff }, "no record"},
	{"index of other block", func(v *victim) { v.u32(v.index("bin/su")+4, 0xffffffff) }, "blkaddr"},

	{"record of no blob", func(v *victim) { v.u32(v.record(0)+32, 99) }, "chunk table: blob_index"},
	{"record beyond count", func(v *victim) { v.u32(v.record(0)+72, 1<<23) }, "chunk table: index"},
	{"record twice", func(v *victim) { copy(v.boot[v.record(1):v.record(2)], v.boot[v.record(0):v.record(1)]) }, "chunk table"},
}
