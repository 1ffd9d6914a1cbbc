// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"lighter/format"
	"lighter/lazyfs/lazyfstest"
)

// TestOpenRefuses covers what no image may be opened from.
func TestOpenRefuses(t *testing.T) {
	g := small(t)
	boot, err := os.ReadFile(g.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	file := func(p []byte) string {
		path := filepath.Join(t.TempDir(), "boot")
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flipped := bytes.Clone(boot)
	flipped[len(flipped)/2] ^= 1
	layer, err := format.BuildLayer(new(bytes.Buffer), bytes.NewReader(tarOf("f", two())), format.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, t.TempDir(), quick())
	for name, c := range map[string]struct {
		spec ImageSpec
		want error
	}{
		"no file":      {ImageSpec{Bootstrap: file(nil) + "x"}, fs.ErrNotExist},
		"directory":    {ImageSpec{Bootstrap: t.TempDir()}, nil},
		"empty":        {ImageSpec{Bootstrap: file(nil)}, format.ErrCorrupt},
		"zeros":        {ImageSpec{Bootstrap: file(make([]byte, 8192))}, format.ErrCorrupt},
		"cut":          {ImageSpec{Bootstrap: file(boot[:4096])}, format.ErrCorrupt},
		"flipped":      {ImageSpec{Bootstrap: file(flipped), Digest: g.Digest}, format.ErrCorrupt},
		"cut, digest":  {ImageSpec{Bootstrap: file(boot[:len(boot)-4096]), Digest: g.Digest}, format.ErrCorrupt},
		"no digest":    {ImageSpec{Bootstrap: g.Bootstrap, Digest: "sha256:"}, nil},
		"other digest": {ImageSpec{Bootstrap: g.Bootstrap, Digest: "md5:" + strings.Repeat("a", 64)}, nil},
		"layer":        {ImageSpec{Bootstrap: file(layer.Bootstrap)}, format.ErrUnsupported},
	} {
		c.spec.Opener = g.Blobs
		im, err := s.OpenImage(t.Context(), c.spec)
		if err == nil {
			t.Errorf("%s: was opened", name)
			im.Close()
		} else if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := s.OpenImage(t.Context(), ImageSpec{Bootstrap: g.Bootstrap}); err == nil {
		t.Error("opened without an opener")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.OpenImage(ctx, specOf(g)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if s.Stats().Images != 0 || g.Blobs.Opens.Load() != 0 {
		t.Error("something is open, or the opener was asked")
	}
	openImage(t, s, ImageSpec{Bootstrap: g.Bootstrap, Opener: g.Blobs})
	if err := s.Close(); err != nil || s.Stats().Images != 0 {
		t.Errorf("close with an open image: %v, %d images", err, s.Stats().Images)
	}
	if _, err := s.OpenImage(t.Context(), specOf(g)); !errors.Is(err, ErrClosed) {
		t.Errorf("open after close: %v", err)
	}
}

// TestCutWhileOpen: a bootstrap that is cut under the mapping gives errors.
func TestCutWhileOpen(t *testing.T) {
	g := small(t)
	im := openImage(t, newStore(t, t.TempDir(), quick()), specOf(g))
	ino := inode(t, im, "big")
	if err := os.Truncate(g.Bootstrap, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Bootstrap().LookupPath("two"); !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("lookup: %v", err)
	}
	if n, err := im.ReadAt(t.Context(), ino, make([]byte, 1), 0); n != 0 || !errors.Is(err, format.ErrCorrupt) {
		t.Errorf("read: %d, %v", n, err)
	}
}

// TestFlippedBootstrap: no byte of a bootstrap can change without being
// noticed when its digest is known; without one nothing panics, and a file's
// bytes are those of some chunks that were verified.
func TestFlippedBootstrap(t *testing.T) {
	g := small(t)
	boot, err := os.ReadFile(g.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, t.TempDir(), plain())
	rnd := rand.New(rand.NewSource(9))
	for range 300 {
		p := bytes.Clone(boot)
		p[rnd.Intn(len(p))] ^= 1 << rnd.Intn(8)
		if err := os.WriteFile(g.Bootstrap, p, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.OpenImage(t.Context(), specOf(g)); !errors.Is(err, format.ErrCorrupt) {
			t.Fatalf("flipped bootstrap: %v", err)
		}
		bare := specOf(g)
		bare.Digest = ""
		im, err := s.OpenImage(t.Context(), bare)
		if err != nil {
			continue
		}
		for _, path := range []string{"big", "two", "s/A"} {
			if ino, err := im.Bootstrap().LookupPath(path); err == nil && ino.Size < 1<<30 {
				im.ReadAt(t.Context(), ino, make([]byte, ino.Size), 0)
			}
		}
		im.Close()
	}
}

func TestMissing(t *testing.T) {
	files := func(i int) map[string][]byte {
		return map[string][]byte{fmt.Sprint("f", i): lazyfstest.Random(int64(i), 10_000)}
	}
	g := lazyfstest.Build(t, format.BuildOptions{}, files(0), files(1), files(2))
	im := openImage(t, newStore(t, t.TempDir(), quick()), specOf(g))
	if ids, err := im.Missing(t.Context()); len(ids) != 0 || err != nil {
		t.Errorf("nothing is missing: %v, %v", ids, err)
	}
	opens := g.Blobs.Opens.Load()
	if opens != 3 {
		t.Errorf("%d questions about 3 blobs", opens)
	}
	im.Close()
	ids := []string{im.blobs[0].info.ID, im.blobs[1].info.ID, im.blobs[2].info.ID}

	im = openImage(t, newStore(t, t.TempDir(), quick()), specOf(g))
	g.Blobs.Put(ids[1], nil)
	if got, err := im.Missing(t.Context()); !slices.Equal(got, ids[1:2]) || err != nil {
		t.Errorf("missing: %v, %v; want %s", got, err, ids[1])
	}
	im.Close()

	im = openImage(t, newStore(t, t.TempDir(), quick()), specOf(g))
	g.Blobs.SetOpenFault(func(_ context.Context, id string) error {
		if id == ids[2] {
			return lazyfstest.ErrDown
		}
		return nil
	})
	if got, err := im.Missing(t.Context()); !slices.Equal(got, ids[1:2]) || !errors.Is(err, lazyfstest.ErrDown) || !strings.Contains(err.Error(), ids[2]) {
		t.Errorf("missing and unknown: %v, %v", got, err)
	}
	// A blob that is complete in the cache is not asked for.
	check(t, im, "f0", files(0)["f0"])
	before := g.Blobs.Opens.Load()
	im.Missing(t.Context())
	if n := g.Blobs.Opens.Load() - before; n > 2 {
		t.Errorf("%d questions about 2 incomplete blobs", n)
	}
}

// TestHiddenChunks: an image is complete without the chunks that an upper
// layer hides.
func TestHiddenChunks(t *testing.T) {
	g := lazyfstest.Build(t, format.BuildOptions{},
		map[string][]byte{"a": lazyfstest.Random(1, 5000), "b": lazyfstest.Random(2, 5000), "c": lazyfstest.Random(3, 5000)},
		map[string][]byte{"b": lazyfstest.Random(4, 6000)})
	im := openImage(t, newStore(t, t.TempDir(), plain()), specOf(g))
	for path, seed := range map[string]int64{"a": 1, "c": 3} {
		check(t, im, path, lazyfstest.Random(seed, 5000))
	}
	if im.Complete() {
		t.Error("complete without b")
	}
	check(t, im, "b", lazyfstest.Random(4, 6000))
	if !im.Complete() {
		t.Error("not complete with all files read")
	}
}

// TestLyingImage: an image that describes another one's blob wrongly gets
// errors, and does the other no harm.
func TestLyingImage(t *testing.T) {
	g := small(t)
	boot, err := os.ReadFile(g.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	b, err := format.OpenBytes(boot)
	if err != nil {
		t.Fatal(err)
	}
	chunk, err := b.Chunk(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Chunk(0, 5)
	if err != nil {
		t.Fatal(err)
	}
	// In the lying image chunk 0 has the digest of chunk 5.
	lie := bytes.Clone(boot)
	i := bytes.Index(lie, chunk.Digest[:])
	copy(lie[i:], other.Digest[:])
	path := filepath.Join(t.TempDir(), "lie")
	if err := os.WriteFile(path, lie, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, t.TempDir(), plain())
	good, bad := openImage(t, s, specOf(g)), openImage(t, s, ImageSpec{Bootstrap: path, Opener: g.Blobs})
	for range 2 {
		for _, im := range []*Image{bad, good} {
			for _, path := range []string{"s/A", "big", "two"} {
				ino := inode(t, im, path)
				want := g.Files[path]
				data, err := readWhole(t.Context(), im, ino, 1<<16)
				if im == good && (err != nil || lazyfstest.Digest(data) != "sha256:"+want.SHA256) {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
	}
	checkSmall(t, good)
}

func TestStatsJSON(t *testing.T) {
	g := small(t)
	s := newStore(t, t.TempDir(), plain())
	checkSmall(t, openImage(t, s, specOf(g)))
	p, err := json.Marshal(s.Stats())
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]int64
	if err := json.Unmarshal(p, &m); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"images", "reads", "read_bytes", "fetch_requests", "fetch_bytes", "fetched_chunks", "cache_bytes", "pinned_bytes", "memory_bytes"} {
		if m[name] <= 0 {
			t.Errorf("%s is %d in %s", name, m[name], p)
		}
	}
	if m["fetch_bytes"] != g.Blobs.Bytes.Load() || m["fetch_requests"] != g.Blobs.Requests.Load() {
		t.Errorf("%s: the store gave %d bytes in %d requests", p, g.Blobs.Bytes.Load(), g.Blobs.Requests.Load())
	}
}

// TestOpenCloseRace opens, reads and closes images of one store at once.
func TestOpenCloseRace(t *testing.T) {
	g := small(t)
	g.Blobs.SetFault(lazyfstest.Slow(100_000))
	o := quick()
	o.CacheLimit = 1 << 20
	s := newStore(t, t.TempDir(), o)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				im, err := s.OpenImage(t.Context(), specOf(g))
				if err != nil {
					t.Error(err)
					return
				}
				path := []string{"big", "two", "s/A", "s/B"}[(i+j)%4]
				ino, err := im.Bootstrap().LookupPath(path)
				if err != nil {
					t.Error(err)
				}
				var reads sync.WaitGroup
				for range 3 {
					reads.Go(func() {
						data, err := readWhole(t.Context(), im, ino, 50_000)
						if err == nil && lazyfstest.Digest(data) != "sha256:"+g.Files[path].SHA256 || err != nil && !errors.Is(err, ErrClosed) {
							t.Errorf("%s: %v", path, err)
						}
					})
				}
				if j%3 == 0 {
					reads.Wait()
				}
				if err := im.Close(); err != nil {
					t.Error(err)
				}
				reads.Wait()
				if j%5 == 0 {
					s.Prune(t.Context(), 0)
				}
			}
		})
	}
	wg.Wait()
}

// TestNothingLeft: a closed store has no goroutine, descriptor or mapping.
func TestNothingLeft(t *testing.T) {
	g := small(t)
	count := func() (goroutines, fds int) {
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(e)
	}
	g0, f0 := count()
	for range 20 {
		s := newStore(t, t.TempDir(), quick())
		for range 3 {
			checkSmall(t, openImage(t, s, specOf(g)))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if g1, f1 := count(); g1 > g0 || f1 > f0 {
		t.Errorf("goroutines %d, before %d; descriptors %d, before %d", g1, g0, f1, f0)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil || strings.Contains(string(maps), g.Bootstrap) {
		t.Errorf("bootstrap is still mapped, %v", err)
	}
}

// memory returns the resident memory of this process in bytes.
func resident(t testing.TB) int64 {
	t.Helper()
	debug.FreeOSMemory()
	p, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.Fields(string(p))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n * int64(os.Getpagesize())
}

// TestMemoryPerImage opens 100 images of 14,000 chunks and reads from each.
func TestMemoryPerImage(t *testing.T) {
	const images, chunks = 100, 14_000
	files := map[string][]byte{}
	for i := range chunks / 14 {
		files[fmt.Sprintf("d%d/f%d", i%20, i)] = lazyfstest.Random(int64(i), 14<<12)
	}
	g := lazyfstest.Build(t, format.BuildOptions{ChunkSize: 4096}, files)
	o := quick()
	o.MemoryLimit = 1 << 20
	s := newStore(t, t.TempDir(), o)
	before := resident(t)
	for i := range images {
		// Each has a bootstrap of its own, as different images would.
		spec := specOf(g)
		spec.Bootstrap = filepath.Join(t.TempDir(), "boot")
		p, err := os.ReadFile(g.Bootstrap)
		if err == nil {
			err = os.WriteFile(spec.Bootstrap, p, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		im := openImage(t, s, spec)
		path := fmt.Sprintf("d%d/f%d", i%20, i)
		check(t, im, path, files[path])
		if im.Bootstrap().Info().Chunks != chunks {
			t.Fatalf("%d chunks", im.Bootstrap().Info().Chunks)
		}
	}
	per := (resident(t) - before) / images
	t.Logf("%d bytes for each open image of %d chunks", per, chunks)
	if per > 2<<20 {
		t.Errorf("%d bytes of memory for each image", per)
	}
}
