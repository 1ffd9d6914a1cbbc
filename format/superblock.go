// SPDX-License-Identifier: Apache-2.0

package format

import (
	"math/bits"

	"lighter/format/internal/disk"
)

// load reads and checks superblock, extended superblock, device slots and
// blob table.
func (b *Bootstrap) load() error {
	head, err := b.view("superblock", 0, min(max(b.size, 0), disk.Alignment))
	if err != nil {
		return err
	}
	if isOld(head) {
		return b.loadV5()
	}
	if len(head) < disk.Alignment {
		return corrupt("superblock", "", -1, "a bootstrap of %d bytes is too short", b.size)
	}
	b.sb.Decode(head[disk.SuperblockOff:])
	b.ext.Decode(head[disk.ExtSuperblockOff:])
	if err := b.checkSuperblock(); err != nil {
		return err
	}
	b.blkBits = uint(b.sb.BlockBits)
	b.blk = 1 << b.blkBits
	b.metaOff = int64(b.sb.MetaBlkaddr) << b.blkBits
	if b.metaOff > b.size {
		return corrupt("superblock", "meta_blkaddr", disk.SuperblockOff+40, "block %d is behind the end", b.sb.MetaBlkaddr)
	}
	if b.size%disk.Alignment != 0 {
		return corrupt("superblock", "", -1, "a size of %d bytes is no multiple of %d", b.size, disk.Alignment)
	}
	if err := b.checkExtended(); err != nil {
		return err
	}
	b.info = Info{
		Version: 6, Size: b.size, BlockSize: uint32(b.blk), ChunkSize: b.ext.ChunkSize, Flags: b.ext.Flags,
		Digester: flagsDigester(b.ext.Flags), Compressor: flagsCompressor(b.ext.Flags), Inodes: b.sb.Inos,
		RootNid: uint64(b.sb.RootNid), Chunks: b.ext.ChunkTableSize / disk.ChunkRecordSize,
	}
	if err := b.loadBlobs(); err != nil {
		return err
	}
	root, err := b.Inode(b.info.RootNid)
	if err != nil {
		return err
	}
	if !root.IsDir() {
		return corrupt("superblock", "root_nid", disk.SuperblockOff+14, "inode %d is no directory", root.Nid)
	}
	return nil
}

// sbField says that a field of the superblock has a value other than the one
// that RAFS v6 fixes.
func sbField(field string, off int64, got, want any) *Error {
	return corrupt("superblock", field, disk.SuperblockOff+off, "%v rather than %v", got, want)
}

func (b *Bootstrap) checkSuperblock() error {
	sb := &b.sb
	switch {
	case sb.Magic != disk.Magic:
		return corrupt("superblock", "magic", disk.SuperblockOff, "%#x is not that of EROFS", sb.Magic)
	case sb.FeatureCompat&disk.FeatureCompat == 0:
		return unsupported("superblock", "feature_compat", disk.SuperblockOff+8, "%#x: EROFS image, but no RAFS v6", sb.FeatureCompat)
	case sb.FeatureCompat != disk.FeatureCompat:
		return sbField("feature_compat", 8, sb.FeatureCompat, disk.FeatureCompat)
	case sb.Checksum != 0:
		return sbField("checksum", 4, sb.Checksum, 0)
	case sb.BlockBits == disk.BlockBitsTarfs:
		return unsupported("superblock", "blkszbits", disk.SuperblockOff+12, "512-byte blocks (tarfs)")
	case sb.BlockBits != disk.BlockBits:
		return sbField("blkszbits", 12, sb.BlockBits, disk.BlockBits)
	case sb.ExtSlots != 0:
		return sbField("sb_extslots", 13, sb.ExtSlots, 0)
	case sb.Inos == 0:
		return corrupt("superblock", "inos", disk.SuperblockOff+16, "no inodes")
	case sb.XattrBlkaddr != 0:
		return sbField("xattr_blkaddr", 44, sb.XattrBlkaddr, 0)
	case sb.FeatureIncompat != disk.FeatureIncompat:
		return unsupported("superblock", "feature_incompat", disk.SuperblockOff+80, "%#x rather than %#x", sb.FeatureIncompat, disk.FeatureIncompat)
	case sb.Lz4MaxDistance != 0:
		return sbField("lz4_max_distance", 84, sb.Lz4MaxDistance, 0)
	case sb.DevtSlotoff != disk.DeviceSlotUnits:
		return sbField("devt_slotoff", 88, sb.DevtSlotoff, disk.DeviceSlotUnits)
	case sb.ExtraDevices > disk.MaxBlobs:
		return corrupt("superblock", "extra_devices", disk.SuperblockOff+86, "%d devices, the limit is %d", sb.ExtraDevices, disk.MaxBlobs)
	case sb.ExtraDevices == 0 && sb.Blocks != 0 && sb.Blocks != 4096:
		return sbField("blocks", 36, sb.Blocks, "0 without devices")
	case sb.BuildTimeNsec >= 1e9:
		return corrupt("superblock", "build_time_nsec", disk.SuperblockOff+32, "%d is a second or more", sb.BuildTimeNsec)
	}
	return nil
}

func extField(field string, off int64, detail string, args ...any) *Error {
	return corrupt("extended superblock", field, disk.ExtSuperblockOff+off, detail, args...)
}

// checkFlags checks flags and chunk size, which lie at the given offsets of the
// structure.
func checkFlags(flags uint64, chunkSize uint32, structure string, flagsOff, sizeOff int64) error {
	one := func(mask uint64) bool { return bits.OnesCount64(flags&mask) == 1 }
	bad := func(detail string) error { return corrupt(structure, "flags", flagsOff, "%#x %s", flags, detail) }
	switch {
	case flags&^(disk.FlagsKnown|disk.FlagsCompatible) != 0:
		return unsupported(structure, "flags", flagsOff, "unknown bits in %#x", flags)
	case flags&disk.FlagTarfs != 0:
		return unsupported(structure, "flags", flagsOff, "tarfs")
	case !one(disk.FlagCompressorNone | disk.FlagCompressorLZ4 | disk.FlagCompressorGzip | disk.FlagCompressorZstd):
		return bad("does not name one compressor")
	case !one(disk.FlagDigestBlake3 | disk.FlagDigestSHA256):
		return bad("does not name one digest")
	case flags&(disk.FlagEncryptNone|disk.FlagEncryptAES) == disk.FlagEncryptNone|disk.FlagEncryptAES:
		return bad("names two ciphers")
	case chunkSize < minChunkSize || chunkSize > maxChunkSize || chunkSize&(chunkSize-1) != 0:
		return corrupt(structure, "chunk_size", sizeOff, "%d is no power of two from %d to %d", chunkSize, minChunkSize, maxChunkSize)
	}
	return nil
}

func (b *Bootstrap) checkExtended() error {
	e := &b.ext
	if err := checkFlags(e.Flags, e.ChunkSize, "extended superblock", disk.ExtSuperblockOff, disk.ExtSuperblockOff+20); err != nil {
		return err
	}
	switch {
	case e.BlobTableOff%disk.Alignment != 0 || e.BlobTableOff < disk.Alignment:
		return extField("blob_table_offset", 8, "%d is no multiple of %d", e.BlobTableOff, disk.Alignment)
	case e.BlobTableSize%disk.BlobEntrySize != 0:
		return extField("blob_table_size", 16, "%d is no multiple of %d", e.BlobTableSize, disk.BlobEntrySize)
	case e.BlobTableSize/disk.BlobEntrySize != uint32(b.sb.ExtraDevices):
		return extField("blob_table_size", 16, "%d bytes for %d devices", e.BlobTableSize, b.sb.ExtraDevices)
	case e.ChunkTableOff%disk.Alignment != 0:
		return extField("chunk_table_offset", 24, "%d is no multiple of %d", e.ChunkTableOff, disk.Alignment)
	case e.ChunkTableSize%disk.ChunkRecordSize != 0:
		return extField("chunk_table_size", 32, "%d is no multiple of %d", e.ChunkTableSize, disk.ChunkRecordSize)
	case e.PrefetchOff%8 != 0 || e.PrefetchOff != 0 && e.PrefetchOff < disk.Alignment:
		return extField("prefetch_table_offset", 40, "%d is not aligned", e.PrefetchOff)
	case e.PrefetchSize%4 != 0 || e.PrefetchOff == 0 && e.PrefetchSize != 0:
		return extField("prefetch_table_size", 48, "%d bytes at offset %d", e.PrefetchSize, e.PrefetchOff)
	}
	return b.checkRanges()
}

// tableRange is a part of the bootstrap that no other part may touch.
type tableRange struct {
	field    string
	fieldOff int64 // in the extended superblock
	off, end uint64
}

// checkRanges checks that the tables lie in the file and apart.
func (b *Bootstrap) checkRanges() error {
	e, size := &b.ext, uint64(b.size)
	slots := disk.DeviceSlotsOff + uint64(b.sb.ExtraDevices)*disk.DeviceSlotSize
	if slots > size {
		return corrupt("superblock", "extra_devices", disk.SuperblockOff+86, "%d device slots do not fit the file", b.sb.ExtraDevices)
	}
	used := []tableRange{{"superblock and device slots", 0, 0, slots}}
	for _, t := range []struct {
		tableRange
		n uint64
	}{
		{tableRange{"blob_table_offset", 8, e.BlobTableOff, 0}, uint64(e.BlobTableSize)},
		{tableRange{"chunk_table_offset", 24, e.ChunkTableOff, 0}, e.ChunkTableSize},
		{tableRange{"prefetch_table_offset", 40, e.PrefetchOff, 0}, uint64(e.PrefetchSize)},
	} {
		if t.off > size || t.n > size-t.off {
			return extField(t.field, t.fieldOff, "%d bytes at %d do not fit the bootstrap of %d bytes", t.n, t.off, size)
		}
		if t.n == 0 {
			continue
		}
		t.end = t.off + t.n
		for _, u := range used {
			if t.off < u.end && u.off < t.end {
				return extField(t.field, t.fieldOff, "%d to %d overlaps %s, %d to %d", t.off, t.end, u.field, u.off, u.end)
			}
		}
		used = append(used, t.tableRange)
	}
	return nil
}

func flagsCompressor(flags uint64) Compressor {
	switch {
	case flags&disk.FlagCompressorLZ4 != 0:
		return LZ4Block
	case flags&disk.FlagCompressorGzip != 0:
		return Gzip
	case flags&disk.FlagCompressorZstd != 0:
		return Zstd
	}
	return None
}

func flagsDigester(flags uint64) Digester {
	if flags&disk.FlagDigestSHA256 != 0 {
		return SHA256
	}
	return Blake3
}
