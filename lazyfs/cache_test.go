// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"bytes"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/format"
	"lighter/lazyfs/cache"
	"lighter/lazyfs/lazyfstest"
)

// fill reads all files of the small image through a store on dir, and closes it.
func fill(t *testing.T, g *lazyfstest.Image, dir string) {
	t.Helper()
	s := newStore(t, dir, quick())
	checkSmall(t, openImage(t, s, specOf(g)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkSmall(t testing.TB, im *Image) {
	t.Helper()
	check(t, im, "big", big())
	check(t, im, "two", two())
	for i := range 40 {
		check(t, im, "s/"+string(rune('A'+i)), lazyfstest.Random(int64(100+i), 1000+i))
	}
}

// cacheFiles lists the regular files below dir.
func cacheFiles(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			names = append(names, path)
		}
		return err
	})
	if err != nil || len(names) < 4 {
		t.Fatalf("cache has %v, %v", names, err)
	}
	return names
}

// copyCache copies a cache directory, leaving holes as holes.
func copyCache(t *testing.T, dst, src string) {
	t.Helper()
	for _, path := range cacheFiles(t, src) {
		rel, _ := filepath.Rel(src, path)
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		os.MkdirAll(filepath.Dir(filepath.Join(dst, rel)), 0o700)
		f, err := os.Create(filepath.Join(dst, rel))
		if err != nil {
			t.Fatal(err)
		}
		zero := make([]byte, 4096)
		for off := 0; off < len(p); off += 4096 {
			if page := p[off:min(off+4096, len(p))]; !bytes.Equal(page, zero[:len(page)]) {
				f.WriteAt(page, int64(off))
			}
		}
		if err := errors.Join(f.Truncate(int64(len(p))), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedCache: whatever was done to the cache while the store was
// stopped, reads give the right bytes when there is a store to fetch from, and
// the right bytes or an error when there is none.
func TestDamagedCache(t *testing.T) {
	flip := func(every int) func(t *testing.T, path string, rnd *rand.Rand) {
		return func(t *testing.T, path string, rnd *rand.Rand) {
			p, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(p); i += every {
				p[i+rnd.Intn(min(every, len(p)-i))] ^= 1 << rnd.Intn(8)
			}
			if err := os.WriteFile(path, p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	damage := map[string]func(t *testing.T, path string, rnd *rand.Rand){
		"flip one":  flip(1 << 30),
		"flip some": flip(20000),
		"flip all":  flip(1),
		"cut": func(t *testing.T, path string, rnd *rand.Rand) {
			fi, _ := os.Stat(path)
			if err := os.Truncate(path, rnd.Int63n(fi.Size())); err != nil {
				t.Fatal(err)
			}
		},
		"zero": func(t *testing.T, path string, rnd *rand.Rand) {
			fi, _ := os.Stat(path)
			if err := errors.Join(os.Truncate(path, 0), os.Truncate(path, fi.Size())); err != nil {
				t.Fatal(err)
			}
		},
		"delete": func(t *testing.T, path string, rnd *rand.Rand) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	}
	g := small(t)
	full := t.TempDir()
	fill(t, g, full)
	rnd := rand.New(rand.NewSource(3))
	rounds := map[string]int{"flip one": 3, "cut": 2}
	for name, do := range damage {
		for _, path := range cacheFiles(t, full) {
			for range max(1, rounds[name]) {
				rel, _ := filepath.Rel(full, path)
				dir := t.TempDir()
				copyCache(t, dir, full)
				do(t, filepath.Join(dir, rel), rnd)
				// Without a store to fetch from: the right bytes or an error.
				gone := specOf(g)
				gone.Opener = lazyfstest.NewBlobs(nil)
				s := newStore(t, dir, plain())
				im := openImage(t, s, gone)
				want := big()
				for off := int64(0); off < int64(len(want)); off += 1 << 16 {
					p := make([]byte, 1<<16)
					if n, err := im.ReadAt(t.Context(), inode(t, im, "big"), p, off); !bytes.Equal(p[:n], want[off:][:n]) || (n < len(p) && err == nil) {
						t.Fatalf("%s %s: wrong bytes at %d: %d, %v", name, rel, off, n, err)
					}
				}
				s.Close()
				s = newStore(t, dir, plain())
				checkSmall(t, openImage(t, s, specOf(g)))
				if t.Failed() {
					t.Fatalf("%s %s", name, rel)
				}
				s.Close()
				// What was repaired stays repaired.
				s = newStore(t, dir, plain())
				im = openImage(t, s, specOf(g))
				checkSmall(t, im)
				if st := s.Stats(); st.FetchRequests != 0 || st.CacheBad != 0 || !im.Complete() {
					t.Fatalf("%s %s: not repaired: %+v, complete %v", name, rel, st, im.Complete())
				}
				s.Close()
			}
		}
	}
}

// TestDamagedWhileOpen: cached files that change under an open image.
func TestDamagedWhileOpen(t *testing.T) {
	g := small(t)
	dir := t.TempDir()
	fill(t, g, dir)
	o := plain()
	o.MemoryLimit = 1 // nothing stays in memory
	s := newStore(t, dir, o)
	im := openImage(t, s, specOf(g))
	checkSmall(t, im)
	if s.Stats().CacheHits == 0 {
		t.Fatal("cache is not used")
	}
	for _, path := range cacheFiles(t, dir) {
		if err := os.Truncate(path, 10); err != nil {
			t.Fatal(err)
		}
	}
	checkSmall(t, im)
	if st := s.Stats(); st.CacheBad == 0 || st.FetchRequests == 0 {
		t.Errorf("stats: %+v", st)
	}
	for _, path := range cacheFiles(t, dir) {
		os.Remove(path)
	}
	checkSmall(t, im)
}

// TestSharedChunks: what one blob has, another does not fetch.
func TestSharedChunks(t *testing.T) {
	one := small(t)
	other := lazyfstest.Build(t, format.BuildOptions{ChunkSize: 1 << 16}, map[string][]byte{
		"copy": big(), "new": lazyfstest.Random(77, 70_000),
	})
	dir := t.TempDir()
	fill(t, one, dir)
	s := newStore(t, dir, plain())
	im := openImage(t, s, specOf(other))
	check(t, im, "copy", big())
	if st := s.Stats(); st.SharedHits != 20 || st.FetchRequests != 0 {
		t.Errorf("shared chunks: %+v", st)
	}
	check(t, im, "new", lazyfstest.Random(77, 70_000))
	if st := s.Stats(); st.FetchedChunks != 2 {
		t.Errorf("own chunks: %+v", st)
	}
	if !im.Complete() {
		t.Error("copied chunks are not in the blob's own file")
	}
	// The blob they came from may go.
	if _, err := s.Prune(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	im.Close()
	s.Close()
	s = newStore(t, dir, plain())
	im = openImage(t, s, specOf(other))
	check(t, im, "copy", big())
	if st := s.Stats(); st.FetchRequests != 0 || st.CacheHits != 20 {
		t.Errorf("after the other blob was pruned: %+v", st)
	}
}

// TestSharedNeighbours: what is fetched along, or ahead, is not what another
// blob has either.
func TestSharedNeighbours(t *testing.T) {
	one := small(t)
	dir := t.TempDir()
	fill(t, one, dir)
	other := lazyfstest.Build(t, format.BuildOptions{ChunkSize: 1 << 16}, map[string][]byte{
		"a": lazyfstest.Random(78, 70_000), "b": big(), "c": lazyfstest.Random(79, 1000),
	})
	s := newStore(t, dir, quick())
	im := openImage(t, s, specOf(other))
	check(t, im, "a", lazyfstest.Random(78, 70_000))
	if data, err := readWhole(t.Context(), im, inode(t, im, "b"), 10_000); err != nil || !bytes.Equal(data, big()) {
		t.Error(err)
	}
	check(t, im, "c", lazyfstest.Random(79, 1000))
	if st := s.Stats(); st.FetchedChunks != 3 || st.SharedHits != 20 {
		t.Errorf("stats: %+v", st)
	}
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount tmpfs (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullDisk: reads succeed while the cache cannot take more, and are cached
// again when there is room.
func TestFullDisk(t *testing.T) {
	g := small(t)
	dir := tmpfs(t, "size=512k")
	var log logBuffer
	o := plain()
	o.Logger = newLog(&log)
	o.MemoryLimit = 1
	s := newStore(t, dir, o)
	im := openImage(t, s, specOf(g))
	for range 3 {
		checkSmall(t, im)
	}
	st := s.Stats()
	if st.Uncached == 0 || st.CacheHits == 0 || st.CacheBad != 0 || st.ReadErrors != 0 {
		t.Errorf("stats: %+v", st)
	}
	if n := strings.Count(log.String(), "cannot be written"); n != 1 {
		t.Errorf("%d warnings, want 1: %s", n, log.String())
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	checkSmall(t, im)
	before := s.Stats()
	checkSmall(t, im)
	if after := s.Stats(); after.FetchRequests != before.FetchRequests || !im.Complete() {
		t.Errorf("not cached with room again: %+v", after)
	}
}

// TestFullDiskEvicts: what no image uses makes room when the disk is full.
func TestFullDiskEvicts(t *testing.T) {
	dir := tmpfs(t, "size=3m")
	old := lazyfstest.Build(t, format.BuildOptions{}, map[string][]byte{"f": lazyfstest.Random(50, 2<<20)})
	s := newStore(t, dir, plain())
	im := openImage(t, s, specOf(old))
	check(t, im, "f", lazyfstest.Random(50, 2<<20))
	if !im.Complete() {
		t.Fatal("the first image did not fit")
	}
	im.Close()
	g := small(t)
	im = openImage(t, s, specOf(g))
	for deadline := time.Now().Add(5 * time.Second); !im.Complete(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no room was made: %+v", s.Stats())
		}
		checkSmall(t, im)
		s.memory = newMemory(1) // so that chunks are fetched and written again
	}
}

// TestFullFromTheStart: not even the first files of the cache can be made.
func TestFullFromTheStart(t *testing.T) {
	g := small(t)
	for _, options := range []string{"size=4k", "nr_inodes=2", "nr_inodes=4"} {
		dir := tmpfs(t, options)
		os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 4096), 0o600)
		s := newStore(t, dir, plain())
		checkSmall(t, openImage(t, s, specOf(g)))
		if st := s.Stats(); st.Uncached == 0 {
			t.Errorf("%s: %+v", options, st)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestReadOnlyCache(t *testing.T) {
	g := small(t)
	dir := tmpfs(t, "size=16m")
	remount := func(flags uintptr) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	s := newStore(t, dir, plain())
	im := openImage(t, s, specOf(g))
	checkSmall(t, im)
	if st := s.Stats(); st.Uncached == 0 || st.ReadErrors != 0 {
		t.Errorf("stats: %+v", st)
	}
	if freed, err := s.Prune(t.Context(), 0); freed != 0 || err != nil {
		t.Errorf("prune without a cache: %d, %v", freed, err)
	}
	s.Close()
	remount(0)
	fill(t, g, dir)
}

func TestOneStorePerDirectory(t *testing.T) {
	dir := t.TempDir()
	newStore(t, dir, quick())
	if _, err := NewStore(dir, quick()); !errors.Is(err, cache.ErrLocked) {
		t.Errorf("second store: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	if _, err := NewStore(file, quick()); err == nil {
		t.Error("a file was taken for a directory")
	}
}

// TestLimit: the cache stays within its limit, open images are spared, and
// what was evicted is fetched again.
func TestLimit(t *testing.T) {
	dir := t.TempDir()
	o := plain()
	o.CacheLimit = 3 << 20
	s := newStore(t, dir, o)
	g := small(t)
	open := openImage(t, s, specOf(g))
	checkSmall(t, open)
	for i := range 6 {
		data := lazyfstest.Random(int64(1000+i), 1<<20)
		other := lazyfstest.Build(t, format.BuildOptions{}, map[string][]byte{"f": data})
		im := openImage(t, s, specOf(other))
		check(t, im, "f", data)
		im.Close()
	}
	for deadline := time.Now().Add(5 * time.Second); s.Stats().CacheBytes > o.CacheLimit; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s.Stats())
		}
	}
	if !open.Complete() {
		t.Error("an open image lost chunks")
	}
	requests := g.Blobs.Requests.Load()
	checkSmall(t, open)
	if g.Blobs.Requests.Load() != requests {
		t.Error("an open image fetches again")
	}
	open.Close()
	if freed, err := s.Prune(t.Context(), 0); freed == 0 || err != nil || s.Stats().CacheBytes != 0 {
		t.Errorf("prune: %d, %v, %+v", freed, err, s.Stats())
	}
	checkSmall(t, openImage(t, s, specOf(g)))
}

// TestEOF covers the ends of files.
func TestEOF(t *testing.T) {
	g := small(t)
	im := openImage(t, newStore(t, t.TempDir(), quick()), specOf(g))
	ino := inode(t, im, "two")
	for _, c := range []struct {
		off  int64
		n    int
		want int
		err  error
	}{
		{0, 0, 0, nil}, {0, 100_000, 100_000, nil}, {0, 100_001, 100_000, io.EOF}, {99_999, 1, 1, nil}, {99_999, 2, 1, io.EOF},
		{100_000, 1, 0, io.EOF}, {1 << 62, 1, 0, io.EOF}, {65_535, 2, 2, nil},
	} {
		p := make([]byte, c.n)
		n, err := im.ReadAt(t.Context(), ino, p, c.off)
		if n != c.want || err != c.err {
			t.Errorf("%d bytes at %d: %d, %v", c.n, c.off, n, err)
		}
	}
	if _, err := im.ReadAt(t.Context(), ino, make([]byte, 1), -1); err == nil {
		t.Error("read at -1")
	}
	if root, err := im.Bootstrap().LookupPath("s"); err != nil {
		t.Error(err)
	} else if _, err := im.ReadAt(t.Context(), root, make([]byte, 1), 0); err == nil {
		t.Error("read of a directory")
	}
}
