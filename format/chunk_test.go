// SPDX-License-Identifier: Apache-2.0

package format

import (
	"errors"
	"math/rand"
	"runtime"
	"slices"
	"sync"
	"testing"

	"lighter/format/internal/disk"
)

// chunkImage makes a bootstrap with an empty root and n chunk records in two
// blobs. The first blob has all numbers, the second every step-th.
func chunkImage(n, step int) []byte {
	const blobOff, rootOff, chunkOff = 4096, 8192, 12288
	half := n / 2
	counts := []uint32{uint32(half), uint32((n - half) * step)}
	size := (chunkOff + n*disk.ChunkRecordSize + 4095) &^ 4095
	p := make([]byte, size)
	put := func(off int, s interface{ Append([]byte) []byte }) { copy(p[off:], s.Append(nil)) }
	var blocks uint32
	for k, count := range counts {
		e := disk.BlobEntry{Index: uint32(k), ChunkSize: 1 << 20, ChunkCount: count, Features: disk.BlobAligned | disk.BlobCapTarTOC,
			CompressedSize: 1 << 40, UncompressedSize: uint64(count) * 4096, CIOff: 1 << 40, CICompressedSize: uint64(count) * 16, CISize: uint64(count) * 16}
		e.ID[0] = byte('a' + k)
		put(blobOff+k*disk.BlobEntrySize, &e)
		put(disk.DeviceSlotsOff+k*disk.DeviceSlotSize, &disk.DeviceSlot{Tag: e.ID, Blocks: count})
		blocks += count
	}
	put(disk.SuperblockOff, &disk.Superblock{Magic: disk.Magic, FeatureCompat: disk.FeatureCompat, BlockBits: 12, Inos: 1, Blocks: blocks,
		MetaBlkaddr: rootOff / 4096, FeatureIncompat: disk.FeatureIncompat, ExtraDevices: 2, DevtSlotoff: disk.DeviceSlotUnits})
	put(disk.ExtSuperblockOff, &disk.ExtSuperblock{Flags: disk.FlagCompressorNone | disk.FlagDigestBlake3 | disk.FlagEncryptNone, ChunkSize: 1 << 20,
		BlobTableOff: blobOff, BlobTableSize: 2 * disk.BlobEntrySize, ChunkTableOff: chunkOff, ChunkTableSize: uint64(n) * disk.ChunkRecordSize})
	put(rootOff, &disk.InodeExtended{Format: 1, Mode: ModeDir | 0o755, Nlink: 2, Ino: 1})
	rnd := rand.New(rand.NewSource(5))
	order := rnd.Perm(n)
	for at, k := range order {
		r := disk.ChunkRecord{BlobIndex: 0, Index: uint32(k)}
		if k >= half {
			r.BlobIndex, r.Index = 1, uint32((k-half)*step)
		}
		le.PutUint64(r.Digest[:], uint64(k))
		r.CompressedOff, r.CompressedSize, r.UncompressedSize = uint64(r.Index)*10, 10, 10
		r.UncompressedOff = uint64(r.Index) * 4096
		put(chunkOff+at*disk.ChunkRecordSize, &r)
	}
	return p
}

// TestChunkIndex finds every chunk, at no more than five bytes of memory each.
func TestChunkIndex(t *testing.T) {
	for _, step := range []int{1, 37} {
		const n = 200_000
		b, err := OpenBytes(chunkImage(n, step))
		if err != nil {
			t.Fatal(err)
		}
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		if _, err := b.Chunk(0, 0); err != nil {
			t.Fatal(err)
		}
		if used := int64(heap()) - int64(before); used > 5*n {
			t.Errorf("step %d: the index takes %d bytes for %d chunks", step, used, n)
		}
		for k := range n {
			blob, index := uint32(0), uint32(k)
			if k >= n/2 {
				blob, index = 1, uint32((k-n/2)*step)
			}
			c, err := b.Chunk(blob, index)
			if err != nil || c.Index != index || c.BlobIndex != blob || le.Uint64(c.Digest[:]) != uint64(k) {
				t.Fatalf("step %d: chunk %d of blob %d is %+v (%v)", step, index, blob, c, err)
			}
			if step > 1 && blob == 1 {
				if _, err := b.Chunk(blob, index+1); !errors.Is(err, ErrCorrupt) {
					t.Fatalf("chunk %d of blob %d: %v", index+1, blob, err)
				}
			}
		}
	}
}

// TestConcurrent reads one image from several goroutines.
func TestConcurrent(t *testing.T) {
	g := goldenTag(t, "v6-ociref")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	want := readListing(t, g.listing)
	c := b.Content(g.open)
	defer c.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := listWith(b, c)
			if err != nil {
				t.Error(err)
				return
			}
			if !slices.EqualFunc(got, want, func(a, b listed) bool { return a.String() == b.String() }) {
				t.Error("another listing")
			}
		})
	}
	wg.Wait()
}
