// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"bytes"
	"io"
	"math/rand"
	"slices"
	"testing"

	"lighter/lazyfs/lazyfstest"
)

// TestGolden reads every file of every real image, then again from a second
// store on the same directory, which must not fetch.
func TestGolden(t *testing.T) {
	for _, name := range slices.Concat(lazyfstest.DirImages, lazyfstest.OCIImages) {
		t.Run(name, func(t *testing.T) {
			g := lazyfstest.Golden(t, name)
			dir := t.TempDir()
			s := newStore(t, dir, quick())
			im := openImage(t, s, specOf(g))
			if n := g.Blobs.Opens.Load(); n != 0 {
				t.Errorf("open asked the opener %d times", n)
			}
			if im.Complete() {
				t.Error("complete before anything was read")
			}
			checkAll(t, im, g, 128<<10)
			st := s.Stats()
			if st.FetchedChunks == 0 || st.VerifyFailures+st.Corrupt+st.Uncached+st.CacheBad+st.ReadErrors != 0 {
				t.Errorf("stats: %+v", st)
			}
			if !im.Complete() {
				t.Error("not complete after everything was read")
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if g.Blobs.Closed.Load() != g.Blobs.Opens.Load() {
				t.Errorf("%d sources opened, %d closed", g.Blobs.Opens.Load(), g.Blobs.Closed.Load())
			}

			requests := g.Blobs.Requests.Load()
			g.Blobs.SetFault(lazyfstest.Down)
			s = newStore(t, dir, quick())
			im = openImage(t, s, specOf(g))
			if !im.Complete() {
				t.Error("not complete after a restart")
			}
			if missing, err := im.Missing(t.Context()); len(missing) != 0 || err != nil {
				t.Errorf("missing %v, %v in a complete cache", missing, err)
			}
			checkAll(t, im, g, 1<<20)
			if n := g.Blobs.Requests.Load() - requests; n != 0 {
				t.Errorf("%d fetches of what the cache has", n)
			}
		})
	}
}

// TestRandomRanges compares random ranges with the whole content, cold and
// warm, with all kinds of read-ahead.
func TestRandomRanges(t *testing.T) {
	g := lazyfstest.Golden(t, "dir-v6-zstd")
	all := files(t, g, 4000)
	for _, o := range []StoreOptions{quick(), plain(), {MemoryLimit: 4 << 20, Logger: quick().Logger}} {
		im := openImage(t, newStore(t, t.TempDir(), o), specOf(g))
		rnd := rand.New(rand.NewSource(11))
		for range 1500 {
			f := all[rnd.Intn(len(all))]
			off := rnd.Int63n(int64(len(f.data)) + 10)
			p := make([]byte, rnd.Intn(min(3<<20, 2*len(f.data)))+1)
			n, err := im.ReadAt(t.Context(), f.ino, p, off)
			want := f.data[min(off, int64(len(f.data))):]
			eof := len(want) < len(p)
			want = want[:min(len(want), len(p))]
			if (err == io.EOF) != eof || (err != nil && err != io.EOF) || !bytes.Equal(p[:n], want) {
				t.Fatalf("%s: %d bytes at %d: got %d, %v; want %d, EOF %v", f.path, len(p), off, n, err, len(want), eof)
			}
		}
	}
}
