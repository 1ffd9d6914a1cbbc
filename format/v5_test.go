// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/format/internal/disk"
)

// goldenV5 is the RAFS v5 image whose damages are tried.
func goldenV5(t testing.TB) *goldenImage {
	t.Helper()
	for _, g := range goldenImages(t) {
		if g.name == "dir-v5-zstd" {
			return g
		}
	}
	t.Fatal("no v5 image")
	return nil
}

// table is where the inode table has the offset of an inode.
func (v *victim) table(path string) int64 {
	return int64(v.b.v5.InodeTableOff) + 4*int64(v.inode(path).Nid-1)
}

// chunk is the first chunk record of a file.
func (v *victim) chunk(path string) int64 {
	i := v.inode(path)
	return v.b.indexOff(&i)
}

// names is where what follows the name of an inode begins.
func (v *victim) names(path string) int64 {
	i := v.inode(path)
	return i.v5.off + int64(i.v5.names)
}

// damagesV5 are ways to lie: where the error must be found, as text of it.
var damagesV5 = []struct {
	name string
	do   func(v *victim)
	want string
}{
	{"version 4", func(v *victim) { v.u32(4, 0x400) }, "superblock: version"},
	{"superblock size", func(v *victim) { v.u32(8, 4096) }, "sb_size"},
	{"chunk size", func(v *victim) { v.u32(12, 3) }, "chunk_size"},
	{"unknown flag", func(v *victim) { v.u64(16, 1<<40) }, "superblock: flags"},
	{"two compressors", func(v *victim) { v.u64(16, v.b.v5.Flags|3) }, "one compressor"},
	{"two digests", func(v *victim) { v.u64(16, v.b.v5.Flags|0xc) }, "one digest"},
	{"encrypted", func(v *victim) { v.u64(16, v.b.v5.Flags|disk.FlagEncryptAES) }, "not for RAFS v5"},
	{"more inodes than names", func(v *victim) { v.u64(24, 1<<40) }, "inodes_count"},
	{"inode table beyond the end", func(v *victim) { v.u64(32, 1<<62) }, "inode_table_offset"},
	{"inode table in the superblock", func(v *victim) { v.u64(32, 0) }, "overlaps"},
	{"four billion names", func(v *victim) { v.u32(56, 0xffffffff) }, "inode_table_offset"},
	{"one name less", func(v *victim) { v.u32(56, v.b.v5.Names-1); v.u64(24, 1) }, "i_child_count"},
	{"prefetch table beyond the end", func(v *victim) { v.u32(60, 0x7fffffff) }, "prefetch_table_offset"},
	{"prefetch of no inode", func(v *victim) {
		v.u64(40, v.b.v5.ExtBlobOff+24)
		v.u32(60, 1)
		v.u32(68, 0)
		v.u64(72, 0)
		v.u32(int64(v.b.v5.ExtBlobOff)+24, 1<<20)
	}, "prefetch table"},
	{"blob table beyond the end", func(v *victim) { v.u64(48, uint64(v.b.size)) }, "blob_table_offset"},
	{"two extended entries", func(v *victim) { v.u32(68, 2) }, "extended_blob_table"},
	{"blob id with slash", func(v *victim) { v.boot[v.b.v5.BlobTableOff+9] = '/' }, "blob_id"},
	{"two blobs", func(v *victim) { v.boot[v.b.v5.BlobTableOff+8+20] = 0 }, "extended_blob_table_entries"},
	{"blob of too many chunks", func(v *victim) { v.u32(int64(v.b.v5.ExtBlobOff), 1<<31) }, "chunk_count"},
	{"blob of batches", func(v *victim) { v.u32(int64(v.b.v5.ExtBlobOff)+4, 0x40000085) }, "features"},
	{"blob without chunks", func(v *victim) { v.u32(int64(v.b.v5.ExtBlobOff), 0) }, "index"},
	{"blob uncompressed size", func(v *victim) { v.u64(int64(v.b.v5.ExtBlobOff)+8, 1<<60) }, "uncompressed_size"},
	{"blob compressed size", func(v *victim) { v.u64(int64(v.b.v5.ExtBlobOff)+16, 1<<60) }, "compressed_size"},
	{"blob too short", func(v *victim) { v.u64(int64(v.b.v5.ExtBlobOff)+16, 1000) }, "compressed_offset"},
	{"header without room", func(v *victim) {
		v.u32(int64(v.b.v5.ExtBlobOff)+4, 0x50000000)
		v.u64(int64(v.b.v5.ExtBlobOff)+16, 100)
	}, "compressed_size"},

	{"inode in the superblock", func(v *victim) { v.u32(v.table("bin/su"), 1) }, "inode table"},
	{"inode beyond the end", func(v *victim) { v.u32(v.table("bin/su"), 0xffffffff) }, "inode"},
	{"inode of another", func(v *victim) { v.u32(v.table("bin/su"), uint32(v.at("bin/sgid")/8)) }, ""},
	{"root is a file", func(v *victim) { v.u32(v.at("")+60, 0o100644) }, "inode"},
	{"parent", func(v *victim) { v.u64(v.at("bin/su")+32, v.inode("deep").Nid) }, "i_parent"},
	{"parent behind it", func(v *victim) { v.u64(v.at("bin/su")+32, 1<<40) }, "i_parent"},
	{"number", func(v *victim) { v.u64(v.at("bin/su")+40, 1<<40) }, "i_ino"},
	{"number of another", func(v *victim) { v.u64(v.at("bin/su")+40, v.inode("deep").Nid) }, ""},
	{"directory is its parent", func(v *victim) { v.u64(v.at("deep/d0/d1")+40, v.inode("deep").Nid) }, "second name"},
	{"children before it", func(v *victim) { v.u32(v.at("deep/d0/d1")+92, uint32(v.inode("deep").Nid)) }, "i_child_index"},
	{"children of another", func(v *victim) { v.u32(v.at("deep/d0")+92, v.inode("deep/d0").v5.first+1) }, "i_parent"},
	{"four billion children", func(v *victim) { v.u32(v.at("bin")+96, 0xffffffff) }, "i_child_count"},
	{"mode without type", func(v *victim) { v.u32(v.at("bin/su")+60, 0o644) }, "i_mode"},
	{"long mode", func(v *victim) { v.u32(v.at("bin/su")+60, 1<<20|0o100644) }, "i_mode"},
	{"size of 2^63", func(v *victim) { v.u64(v.at("bin/su")+64, 1<<63) }, "i_size"},
	{"one byte more", func(v *victim) { v.u64(v.at("bin/su")+64, uint64(v.inode("bin/su").Size)+1) }, "chunk"},
	{"one chunk more", func(v *victim) { v.u32(v.at("bin/su")+96, 2) }, "i_child_count"},
	{"nlink 0", func(v *victim) { v.u32(v.at("bin/su")+88, 0) }, "i_nlink"},
	{"name too long", func(v *victim) { v.u16(v.at("bin/su")+100, 300) }, "i_name_size"},
	{"no name", func(v *victim) { v.u16(v.at("bin/sgid")+100, 0); v.u64(v.at("bin/sgid")+80, 0) }, ""},
	{"name with slash", func(v *victim) { v.boot[v.at("bin/su")+128] = '/' }, "has a slash"},
	{"name with NUL", func(v *victim) { v.boot[v.at("bin/su")+128] = 0 }, "has a NUL"},
	{"name is ..", func(v *victim) { copy(v.boot[v.at("bin/su")+128:], "..") }, "is no name"},
	{"names not sorted", func(v *victim) { v.boot[v.at("bin/su")+128] = 'A' }, ""},
	{"nanoseconds", func(v *victim) { v.u32(v.at("bin/su")+108, 1e9) }, "i_mtime_nsec"},
	{"link of a file", func(v *victim) { v.u16(v.at("bin/su")+102, 8) }, "i_symlink_size"},
	{"link of another length", func(v *victim) { v.u64(v.at("other/rel")+64, 1) }, "i_symlink_size"},
	{"link with NUL", func(v *victim) {
		i := v.inode("other/rel")
		v.boot[i.v5.off+int64(i.v5.names)-up(i.Size, 8)] = 0
	}, "link target"},
	{"attributes beyond the end", func(v *victim) { v.u64(v.names("bin/su"), 1<<40) }, "xattr area"},
	{"attribute too long", func(v *victim) { v.u32(v.names("bin/su")+8, 1<<30) }, "xattr area"},
	{"attribute without name", func(v *victim) { v.boot[v.names("bin/su")+12] = 0 }, "xattr area"},

	{"chunk of no blob", func(v *victim) { v.u32(v.chunk("bin/su")+32, 7) }, "blob_index"},
	{"chunk beyond count", func(v *victim) { v.u32(v.chunk("bin/su")+72, 1<<20) }, "index"},
	{"chunk flag", func(v *victim) { v.u32(v.chunk("bin/su")+36, 0x100) }, "flags"},
	{"hole", func(v *victim) { v.u32(v.chunk("bin/su")+36, 2) }, "flags"},
	{"batch", func(v *victim) { v.u32(v.chunk("bin/su")+36, 8) }, "flags"},
	{"chunk size 0", func(v *victim) { v.u32(v.chunk("bin/su")+44, 0) }, "uncompressed_size"},
	{"stored size 0", func(v *victim) { v.u32(v.chunk("bin/su")+40, 0) }, "compressed_offset"},
	{"stored beyond the end", func(v *victim) { v.u64(v.chunk("bin/su")+48, 1<<50) }, "compressed_offset"},
	{"place beyond the end", func(v *victim) { v.u64(v.chunk("bin/su")+56, 1<<50) }, "uncompressed_offset"},
	{"file offset", func(v *victim) { v.u64(v.chunk("bin/su")+64, 1<<20) }, "file_offset"},
}

func TestDamagesV5(t *testing.T) {
	g := goldenV5(t)
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	if err := walkMetadata(g.boot, anyChunk); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	for _, d := range damagesV5 {
		t.Run(d.name, func(t *testing.T) {
			v := &victim{b: b, boot: bytes.Clone(g.boot)}
			d.do(v)
			mustRefuse(t, v, d.want)
		})
	}
}

// TestCheckOnlyV5 has lies that reading alone cannot or need not see.
func TestCheckOnlyV5(t *testing.T) {
	for _, d := range []struct {
		name string
		do   func(v *victim)
		want string
	}{
		{"nlink of a directory", func(v *victim) { v.u32(v.at("bin")+88, 7) }, "i_nlink"},
		{"nlink of a hard link", func(v *victim) { v.u32(v.at("bin/su")+88, 9) }, "differs from the first"},
		{"inodes", func(v *victim) { v.u64(24, v.b.v5.Inodes-2) }, "inodes_count"},
		{"digest of a file", func(v *victim) { v.boot[v.at("bin/sgid")] ^= 1 }, "i_digest"},
		{"digest of a directory", func(v *victim) { v.boot[v.at("bin")+7] ^= 1 }, "i_digest"},
		{"digest of a chunk", func(v *victim) { v.boot[v.chunk("bin/sgid")] ^= 1 }, ""},
		{"target of a link", func(v *victim) { v.boot[v.names("other/rel")-16] ^= 1 }, "i_digest"},
		{"owner of one name", func(v *victim) { v.u32(v.at("bin/su")+48, 77) }, "differs from the first"},
		{"reserved bytes of the superblock", func(v *victim) { v.boot[8191] = 1 }, "reserved"},
		{"reserved bytes of an inode", func(v *victim) { v.boot[v.at("bin/su")+127] = 1 }, "reserved"},
		{"reserved bytes of a blob", func(v *victim) { v.boot[v.b.v5.ExtBlobOff+63] = 1 }, "reserved"},
		{"padding of a name", func(v *victim) { v.boot[v.at("bin/su")+128+7] = 1 }, "inode name"},
		{"padding of the inode table", func(v *victim) { v.boot[v.b.v5.InodeTableOff+4*uint64(v.b.v5.Names)] = 1 }, "padding"},
		{"unknown inode flag", func(v *victim) { v.u64(v.at("bin/su")+80, 0x40) }, ""},
		{"no xattrs", func(v *victim) { v.u64(16, v.b.v5.Flags&^0x20) }, "flags"},
		{"crc without flag", func(v *victim) { v.u32(v.chunk("bin/sgid")+76, 5); v.u32(v.chunk("bin/sgid")+36, 1) }, "crc32c"},
		{"name of the root", func(v *victim) { v.boot[v.at("")+128] = 'x' }, "the root"},
	} {
		t.Run(d.name, func(t *testing.T) {
			g := goldenV5(t)
			b, err := OpenBytes(g.boot)
			if err != nil {
				t.Fatal(err)
			}
			v := &victim{b: b, boot: bytes.Clone(g.boot)}
			d.do(v)
			if b, err = OpenBytes(v.boot); err != nil {
				t.Fatal(err)
			}
			r, err := Check(b, nil, CheckOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Err(); err == nil || !strings.Contains(err.Error(), d.want) {
				t.Errorf("check finds %v, want %q", err, d.want)
			}
		})
	}
}

// TestTruncatedV5 opens shorter forms of a bootstrap.
func TestTruncatedV5(t *testing.T) {
	g := goldenV5(t)
	for n := 0; n < len(g.boot); n += 1000 {
		if err := walkMetadata(g.boot[:n], anyChunk); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d of %d bytes: %v", n, len(g.boot), err)
		}
	}
}

// TestSameRecordsV5 points all of the inode table to one large file: finding a
// chunk must not take the product of both.
func TestSameRecordsV5(t *testing.T) {
	g := goldenV5(t)
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	var big Inode
	for n := uint64(1); n <= uint64(b.v5.Names); n++ {
		if i, err := b.Inode(n); err == nil && i.IsRegular() && i.Size > big.Size {
			big = i
		}
	}
	v := &victim{b: b, boot: bytes.Clone(g.boot)}
	for n := int64(big.Nid); n < int64(b.v5.Names); n++ {
		v.u32(int64(b.v5.InodeTableOff)+4*n, uint32(big.v5.off/8))
	}
	if b, err = OpenBytes(v.boot); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Chunk(0, 1<<24); !errors.Is(err, ErrCorrupt) {
		t.Errorf("chunk: %v", err)
	}
	r, err := Check(b, nil, CheckOptions{MaxViolations: 5})
	if err != nil || len(r.Violations) == 0 {
		t.Errorf("check: %v, %v", err, r)
	}
}

// TestNoExtendedBlobTable reads an image of the time before that table.
func TestNoExtendedBlobTable(t *testing.T) {
	g := goldenV5(t)
	whole, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{b: whole, boot: bytes.Clone(g.boot)}
	copy(v.boot[whole.v5.ExtBlobOff:], make([]byte, disk.V5BlobSize))
	v.u32(68, 0)
	v.u64(72, 0)
	b, err := OpenBytes(v.boot)
	if err != nil {
		t.Fatal(err)
	}
	got, want := b.Blobs()[0], whole.Blobs()[0]
	if got.ChunkCount != want.ChunkCount || got.UncompressedSize != want.UncompressedSize || got.CompressedSize != want.CompressedSize {
		t.Errorf("measured %+v, want %+v", got, want)
	}
	compareListing(t, b, g.open, readListing(t, g.listing))
	if r, err := Check(b, g.open, CheckOptions{}); err != nil || r.Err() != nil {
		t.Errorf("check: %v, %v", err, r.Err())
	}
}

// TestChunkV5 finds chunks by number, where the bootstrap has no table of them.
func TestChunkV5(t *testing.T) {
	g := goldenV5(t)
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	bl := b.Blobs()[0]
	seen := map[[32]byte]bool{}
	for n := range bl.ChunkCount {
		c, err := b.Chunk(0, n)
		if err != nil || c.Index != n {
			t.Fatalf("chunk %d: %+v, %v", n, c, err)
		}
		seen[c.Digest] = true
	}
	if len(seen) != int(bl.ChunkCount) {
		t.Errorf("%d distinct chunks of %d", len(seen), bl.ChunkCount)
	}
	if _, err := b.Chunk(0, bl.ChunkCount); !errors.Is(err, ErrCorrupt) {
		t.Errorf("chunk behind the last: %v", err)
	}
}

// TestDirentsV5 begins listings at every position.
func TestDirentsV5(t *testing.T) {
	g := goldenV5(t)
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "bin", "deep"} {
		dir, err := b.LookupPath(path)
		if err != nil {
			t.Fatal(err)
		}
		list := func(from int) (names []string, next []int) {
			if err := b.Dirents(dir, from, func(i int, d Dirent) bool {
				names, next = append(names, d.Name), append(next, i+1)
				return true
			}); err != nil {
				t.Fatal(err)
			}
			return names, next
		}
		all, next := list(0)
		if all[0] != "." || all[1] != ".." || !slices.IsSorted(all[2:]) {
			t.Errorf("%q lists %q", path, all)
		}
		for k, from := range next {
			if rest, _ := list(from); !slices.Equal(rest, all[k+1:]) {
				t.Errorf("%q from %d: %q, want %q", path, from, rest, all[k+1:])
			}
		}
		if _, err := b.Lookup(dir, "no such name"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("lookup: %v", err)
		}
	}
}

// TestHardLinksV5 expects all names of a file to be one inode.
func TestHardLinksV5(t *testing.T) {
	b, err := OpenBytes(goldenV5(t).boot)
	if err != nil {
		t.Fatal(err)
	}
	one, err := b.LookupPath("bin/su")
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.LookupPath("bin/su2")
	if err != nil || one != two || one.Nlink != 3 {
		t.Errorf("%+v and %+v (%v)", one, two, err)
	}
}

// TestFlipsV5InBlob changes bits of the blob: Check must find each.
func TestFlipsV5InBlob(t *testing.T) {
	g := goldenV5(t)
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	id := b.Blobs()[0].ID
	blob, err := os.ReadFile(filepath.Join(g.blobs, id))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bad := &goldenImage{blobs: dir}
	for k := range 5 {
		p := bytes.Clone(blob)
		p[k*len(p)/5+k] ^= 0x10
		if err := os.WriteFile(filepath.Join(dir, id), p, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Check(b, bad.open, CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if e := fmt.Sprint(r.Err()); len(r.Violations) < 2 || !strings.Contains(e, "sha256 digest") || !strings.Contains(e, "chunk") {
			t.Errorf("flip %d: check finds %v", k, e)
		}
	}
}
