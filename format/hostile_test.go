// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"runtime"
	"strings"
	"testing"
	"time"

	"lighter/format/internal/disk"
)

// walkMetadata reads everything that a bootstrap has: the tree through
// Dirents and Lookup, attributes, links, and the place of every chunk.
func walkMetadata(boot []byte, chunk func(b *Bootstrap, c Chunk) error) error {
	b, err := OpenBytes(boot)
	if err != nil {
		return err
	}
	if _, err := b.Prefetch(); err != nil {
		return err
	}
	root, err := b.Inode(b.Info().RootNid)
	if err != nil {
		return err
	}
	names := 0
	stack := []Inode{root}
	for len(stack) > 0 {
		i := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if _, err := b.Xattrs(i); err != nil {
			return err
		}
		switch {
		case i.IsSymlink():
			_, err = b.Readlink(i)
		case i.IsRegular():
			err = walkChunks(b, i, chunk)
		case i.IsDir():
			var failed error
			err = b.Dirents(i, 0, func(_ int, d Dirent) bool {
				if names++; names > 10000 {
					failed = errors.New("the tree does not end")
					return false
				}
				nid, err := b.Lookup(i, d.Name)
				if errors.Is(err, fs.ErrNotExist) {
					return true // not in order: Dirents must say so at one of the next names
				}
				if err != nil {
					failed = err
					return false
				}
				child, err := b.Inode(nid)
				if err != nil {
					failed = err
					return false
				}
				if d.Name != "." && d.Name != ".." {
					stack = append(stack, child)
				}
				return true
			})
			if failed != nil {
				err = failed
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func walkChunks(b *Bootstrap, i Inode, chunk func(b *Bootstrap, c Chunk) error) error {
	var failed error
	err := b.FileChunks(i, 0, i.Size, func(_ int64, c Chunk) bool {
		if failed = chunk(b, c); failed != nil {
			return false
		}
		if !b.NeedsMeta(c.BlobIndex) {
			_, failed = b.Extent(c, nil)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func anyChunk(*Bootstrap, Chunk) error { return nil }

func TestDamages(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	if err := walkMetadata(g.boot, anyChunk); err != nil {
		t.Fatalf("undamaged: %v", err)
	}
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			v := &victim{b: b, boot: bytes.Clone(g.boot)}
			d.do(v)
			if bytes.Equal(v.boot, g.boot) {
				t.Fatal("nothing is damaged")
			}
			mustRefuse(t, v, d.want)
		})
	}
}

// mustRefuse reads and checks a damaged bootstrap: both fail, soon, and reading
// says what is wanted.
func mustRefuse(t *testing.T, v *victim, want string) {
	t.Helper()
	begin := time.Now()
	err := walkMetadata(v.boot, anyChunk)
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
		t.Fatalf("reading gives %v", err)
	}
	if !strings.Contains(err.Error(), want) || e.Structure == "" {
		t.Errorf("reading gives %q, want %q in it", err, want)
	}
	if b, err := OpenBytes(v.boot); err == nil {
		r, err := Check(b, nil, CheckOptions{})
		if err != nil || len(r.Violations) == 0 {
			t.Errorf("check finds nothing (%v)", err)
		}
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestCheckOnly has lies that reading alone cannot or need not see.
func TestCheckOnly(t *testing.T) {
	for _, d := range []struct {
		name string
		do   func(v *victim)
		want string
	}{
		{"nlink of a directory", func(v *victim) { v.u32(v.at("bin")+44, 7) }, "i_nlink"},
		{"nlink of a hard link", func(v *victim) { v.u32(v.at("bin/su")+44, 3) }, "i_nlink"},
		{"nlink of one hard link", func(v *victim) { v.u32(v.at("bin/su")+44, 1) }, "i_nlink"},
		{"nlink 0", func(v *victim) { v.u32(v.at("bin/sgid")+44, 0) }, "i_nlink"},
		{"inos", func(v *victim) { v.u64(sb+16, v.b.sb.Inos+1) }, "superblock: inos"},
		{"ino", func(v *victim) { v.u32(v.at("bin/su")+20, 1<<31) }, "i_ino"},
		{"records not sorted", func(v *victim) { v.boot[v.record(0)] = 0xff }, "digest"},
		{"file offset", func(v *victim) { v.u64(v.record(0)+64, 1<<30) }, "file_offset"},
		{"mapped address", func(v *victim) { v.u32(v.slot(0)+68, 1) }, "mapped_blkaddr"},
		{"chunk format", func(v *victim) { v.u32(v.at("bin/su")+16, 0x20) }, "i_u"},
		{"no xattrs", func(v *victim) { v.u64(ext, v.b.ext.Flags&^0x20) }, "flags"},
		{"ino of another", func(v *victim) { v.u32(v.at("bin/su")+20, v.inode("bin/sgid").Ino) }, "i_ino"},
		{"boot area", func(v *victim) { v.boot[7] = 1 }, "boot area"},
		{"build time", func(v *victim) { v.boot[sb+24] = 1 }, "build_time"},
		{"crc", func(v *victim) { v.u32(v.record(0)+36, 0) }, "crc32c"},
		{"reserved byte of an entry", func(v *victim) { o, _ := v.dirent("bin", "su"); v.boot[o+11] = 1 }, "reserved"},
		{"ten billion inodes", func(v *victim) { v.u64(sb+16, 10_000_000_000) }, "superblock: inos"},
		{"directory with two names", func(v *victim) {
			o, _ := v.dirent("", "deep")
			v.u64(o, v.inode("bin").Nid)
		}, "two names"},
		{"gap", func(v *victim) { v.boot[4096-1] = 1 }, "gap at"},
		{"reserved bytes of the superblock", func(v *victim) { v.boot[sb+127] = 1 }, "reserved"},
		{"reserved bytes of a blob", func(v *victim) { v.boot[v.blob(0)+255] = 1 }, "reserved"},
		{"reserved bytes of an inode", func(v *victim) { v.boot[v.at("bin/su")+63] = 1 }, "reserved"},
		{"chunks overlap", func(v *victim) { v.u64(v.record(2)+56, 0) }, "chunk table"},
	} {
		t.Run(d.name, func(t *testing.T) {
			g := goldenTag(t, "v6-zstd")
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

// TestTruncated opens every shorter form of a bootstrap.
func TestTruncated(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	for n := 0; n < len(g.boot); n += 256 {
		if n%8192 == 0 {
			n++
		}
		err := walkMetadata(g.boot[:n], anyChunk)
		if !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d of %d bytes: %v", n, len(g.boot), err)
		}
	}
	if err := walkMetadata(g.boot[:len(g.boot)-4096], anyChunk); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("one block less: %v", err)
	}
}

// TestFlips changes single bits: reading must fail, or every chunk that a
// file has must still be one of the image's, with the digest that its bytes
// had. A digest that changed must not fit any bytes.
func TestFlips(t *testing.T) {
	for _, tag := range []string{"v6-zstd", "v6-none"} {
		t.Run(tag, func(t *testing.T) {
			g := goldenTag(t, tag)
			digests := map[[32]byte]bool{}
			if err := walkMetadata(g.boot, func(_ *Bootstrap, c Chunk) error { digests[c.Digest] = true; return nil }); err != nil {
				t.Fatal(err)
			}
			if len(digests) < 10 {
				t.Fatalf("only %d digests", len(digests))
			}
			rnd := rand.New(rand.NewSource(3))
			step := max(1, len(g.boot)/4000)
			refused, same, unverified := 0, 0, 0
			boot := bytes.Clone(g.boot)
			for off := rnd.Intn(step); off < len(boot); off += 1 + rnd.Intn(2*step) {
				bit := byte(1) << rnd.Intn(8)
				boot[off] ^= bit
				err := walkMetadata(boot, func(b *Bootstrap, c Chunk) error {
					if digests[c.Digest] {
						return nil
					}
					unverified++
					content := b.Content(g.open)
					defer content.Close()
					_, err := content.Chunk(c)
					if err == nil {
						t.Fatalf("bit %#x of byte %d: a changed digest fits", bit, off)
					}
					return err
				})
				if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
					t.Fatalf("bit %#x of byte %d: %v", bit, off, err)
				}
				if err != nil {
					refused++
				} else {
					same++
				}
				boot[off] ^= bit
			}
			t.Logf("%d flips refused, %d of them by digest; %d read as before", refused, unverified, same)
			if refused < 300 {
				t.Errorf("only %d of %d flips refused", refused, refused+same)
			}
		})
	}
}

// TestFlipsInBlob changes bits of the blobs: Check must find each.
func TestFlipsInBlob(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	small := b.Blobs()[0]
	for _, bl := range b.Blobs() {
		if bl.CIOff < small.CIOff {
			small = bl
		}
	}
	r, size, err := g.open(small)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := r.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	closeIf(r)
	c := &checker{b: b, o: CheckOptions{MaxViolations: 5}, report: &Report{}}
	c.open = func(Blob) (io.ReaderAt, int64, error) { return bytes.NewReader(data), int64(len(data)), nil }
	if err := c.chunkTable(); err != nil {
		t.Fatal(err)
	}
	if err := c.blob(small); err != nil || len(c.report.Violations) > 0 {
		t.Fatal(err, c.report.Violations)
	}
	rnd := rand.New(rand.NewSource(4))
	for range 200 {
		off := rnd.Intn(len(data))
		data[off] ^= 1 << rnd.Intn(8)
		c.report = &Report{}
		if err := c.blob(small); err != nil && !errors.Is(err, errEnough) {
			t.Fatalf("byte %d: %v", off, err)
		}
		if len(c.report.Violations) == 0 {
			t.Fatalf("byte %d of %d changed, and check finds nothing", off, len(data))
		}
		r, _, _ := g.open(small)
		r.ReadAt(data[off:off+1], int64(off))
		closeIf(r)
	}
}

// allocated returns the bytes that do allocates in all.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestBombs inflates what declares little and holds much, or the reverse.
func TestBombs(t *testing.T) {
	huge := make([]byte, 256<<20)
	bombs := map[Compressor][]byte{}
	for _, c := range []Compressor{LZ4Block, Gzip, Zstd} {
		enc, err := c.encoder(0)
		if err != nil {
			t.Fatal(err)
		}
		if bombs[c], err = enc(nil, huge); err != nil {
			t.Fatal(err)
		}
	}
	huge = nil
	for c, stored := range bombs {
		e := Extent{Size: int64(len(stored)), InflatedSize: 4096, codec: c}
		var err error
		if n := allocated(func() { _, err = e.Inflate(nil, stored) }); n > 16<<20 {
			t.Errorf("%s: inflating allocates %d bytes", c, n)
		}
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: inflating gives %v", c, err)
		}
	}
	var err error
	if n := allocated(func() { _, err = inflateInfos(bombs[Zstd], 256<<20, Zstd, 0) }); n > 16<<20 || !errors.Is(err, ErrCorrupt) {
		t.Errorf("chunk infos: %d bytes allocated, %v", n, err)
	}
	blob := append(bytes.Clone(bombs[Zstd]), (&disk.TarHeader{Name: disk.NameBootstrap, Size: int64(len(bombs[Zstd]))}).Append(nil)...)
	toc := disk.TOCEntry{Flags: disk.TOCZstd, Size: uint64(len(bombs[Zstd])), UncompressedSize: 256 << 20}
	copy(toc.Name[:], disk.NameBootstrap)
	blob = toc.Append(blob)
	blob = (&disk.TarHeader{Name: disk.NameTOC, Size: disk.TOCEntrySize}).Append(blob)
	l, err := ReadLayerBlob(bytes.NewReader(blob), int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	if n := allocated(func() { _, err = l.Bootstrap() }); n > 16<<20 || !errors.Is(err, ErrCorrupt) {
		t.Errorf("bootstrap: %d bytes allocated, %v", n, err)
	}
}

// TestLimits asks for things that no image has.
func TestLimits(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	for _, nid := range []uint64{0, 1, 31, 127, 1 << 31, 1 << 32, 1 << 58, 1 << 59, 1 << 63, 1<<64 - 1} {
		if _, err := b.Inode(nid); err == nil || !errors.Is(err, ErrCorrupt) {
			t.Errorf("inode %d: %v", nid, err)
		}
	}
	for _, at := range [][2]uint32{{0, 1 << 31}, {1 << 31, 0}, {99, 0}, {1<<32 - 1, 1<<32 - 1}} {
		if _, err := b.Chunk(at[0], at[1]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("chunk %v: %v", at, err)
		}
	}
	root, err := b.Inode(b.Info().RootNid)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []int{-1, 1 << 40, 1<<63 - 1} {
		n := 0
		if err := b.Dirents(root, from, func(int, Dirent) bool { n++; return true }); n != 0 || from < 0 && err == nil {
			t.Errorf("from %d: %d entries, %v", from, n, err)
		}
	}
	if _, err := b.Lookup(root, "no such name"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lookup: %v", err)
	}
	v4, err := OpenBytes(append([]byte{0x53, 0x46, 0x41, 0x52, 0, 4, 0, 0}, make([]byte, 8192-8)...))
	if !errors.Is(err, ErrUnsupported) || v4 != nil || !strings.Contains(fmt.Sprint(err), "version") {
		t.Errorf("v4: %v", err)
	}
}
