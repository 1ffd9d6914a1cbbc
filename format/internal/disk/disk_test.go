// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"math/rand"
	"testing"
)

type structure interface {
	Decode(b []byte)
	Append(b []byte) []byte
}

var structures = []struct {
	name string
	s    structure
	size int // from the format's tables, not from the constants
	cnst int
}{
	{"superblock", new(Superblock), 128, SuperblockSize},
	{"extended superblock", new(ExtSuperblock), 256, ExtSuperblockSize},
	{"device slot", new(DeviceSlot), 128, DeviceSlotSize},
	{"blob entry", new(BlobEntry), 256, BlobEntrySize},
	{"extended inode", new(InodeExtended), 64, InodeExtendedSize},
	{"compact inode", new(InodeCompact), 32, InodeCompactSize},
	{"dirent", new(Dirent), 12, DirentSize},
	{"xattr header", new(XattrHeader), 12, XattrHeaderSize},
	{"xattr entry", new(XattrEntry), 4, XattrEntrySize},
	{"chunk index", new(ChunkIndex), 8, ChunkIndexSize},
	{"chunk record", new(ChunkRecord), 80, ChunkRecordSize},
	{"chunk info v1", new(ChunkInfoV1), 16, ChunkInfoV1Size},
	{"chunk info v2", new(ChunkInfoV2), 24, ChunkInfoV2Size},
	{"batch context", new(BatchContext), 40, BatchContextSize},
	{"zran context", new(ZranContext), 40, ZranContextSize},
	{"blob header", new(BlobHeader), 4096, BlobHeaderSize},
	{"toc entry", new(TOCEntry), 128, TOCEntrySize},
	{"v5 superblock", new(V5Superblock), 8192, V5SuperblockSize},
	{"v5 inode", new(V5Inode), 128, V5InodeSize},
	{"v5 extended blob entry", new(V5Blob), 64, V5BlobSize},
	{"v5 blob entry", new(V5BlobHead), 8, V5BlobHeadSize},
}

func TestSizes(t *testing.T) {
	for _, c := range structures {
		if n := len(c.s.Append(nil)); n != c.size || c.cnst != c.size {
			t.Errorf("%s: appends %d bytes, constant %d, want %d", c.name, n, c.cnst, c.size)
		}
	}
}

// TestRoundTrip decodes random bytes, and expects that the bytes appended
// from the result decode to the same bytes again.
func TestRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for _, c := range structures {
		for range 200 {
			in := make([]byte, c.size)
			rnd.Read(in)
			c.s.Decode(in)
			once := c.s.Append(nil)
			c.s.Decode(once)
			twice := c.s.Append(nil)
			if !bytes.Equal(once, twice) {
				t.Fatalf("%s: % x decodes to % x, then to % x", c.name, in, once, twice)
			}
			same := 0
			for i := range in {
				if in[i] == once[i] {
					same++
				}
			}
			if c.size < 4096 && c.size != 40 && same < c.size/8 {
				t.Fatalf("%s: only %d of %d bytes survive", c.name, same, c.size)
			}
		}
	}
}

func TestChunkInfoWords(t *testing.T) {
	v1 := ChunkInfoV1{UncompressedOff: 0x023456789000, UncompressedSize: 0xabcdef, CompressedOff: 0x1234567890, CompressedSize: 1 << 24}
	want := []byte{
		0x00, 0x9a, 0x78, 0x56, 0x34, 0xe2, 0xde, 0xbc, // U = 0xabcdee
		0x90, 0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff,
	}
	got := v1.Append(nil)
	if !bytes.Equal(got, want) {
		t.Errorf("v1: got % x, want % x", got, want)
	}
	var back ChunkInfoV1
	back.Decode(got)
	if back != v1 {
		t.Errorf("v1: %+v comes back as %+v", v1, back)
	}
	v2 := ChunkInfoV2{UncompressedOff: 0x1000, UncompressedSize: 1 << 24, Flags: 5, CompressedOff: 7, CompressedSize: 0, Data: 3<<32 | 9}
	var back2 ChunkInfoV2
	back2.Decode(v2.Append(nil))
	if back2 != v2 {
		t.Errorf("v2: %+v comes back as %+v", v2, back2)
	}
}

func TestTarHeader(t *testing.T) {
	for _, size := range []int64{0, 1, 4096, 1<<33 - 1, 1 << 33, 1 << 40} {
		b := (&TarHeader{Name: NameBootstrap, Size: size}).Append(nil)
		var h TarHeader
		if len(b) != TarHeaderSize || !h.Decode(b) || h.Name != NameBootstrap || h.Size != size {
			t.Errorf("size %d: comes back as %+v", size, h)
		}
		for i := range b {
			c := bytes.Clone(b)
			c[i] ^= 0x41
			if h.Decode(c) {
				t.Errorf("size %d: byte %d changed and the header is accepted", size, i)
			}
		}
	}
}

func FuzzTarHeader(f *testing.F) {
	f.Add((&TarHeader{Name: NameTOC, Size: 640}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < TarHeaderSize {
			return
		}
		var h, again TarHeader
		if h.Decode(b) && (!again.Decode(h.Append(nil)) || (len(h.Name) < 100 && again != h)) {
			t.Fatalf("%+v comes back as %+v", h, again)
		}
	})
}
