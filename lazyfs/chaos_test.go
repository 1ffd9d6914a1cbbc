// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lighter/format"
	"lighter/lazyfs/lazyfstest"
)

// anyFault misbehaves in a random way, mostly not at all.
func anyFault(ctx context.Context, c lazyfstest.Call, p []byte, read func() (int, error)) (int, error) {
	faults := []lazyfstest.Fault{
		lazyfstest.Down, lazyfstest.Reset, lazyfstest.Flip, lazyfstest.Slow(3 * time.Millisecond),
		func(context.Context, lazyfstest.Call, []byte, func() (int, error)) (int, error) {
			return 0, fs.ErrNotExist
		},
		func(ctx context.Context, c lazyfstest.Call, p []byte, read func() (int, error)) (int, error) {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			return lazyfstest.Hang(ctx, c, p, read)
		},
		func(_ context.Context, _ lazyfstest.Call, p []byte, _ func() (int, error)) (int, error) {
			rand.New(rand.NewSource(time.Now().UnixNano())).Read(p)
			return len(p), nil
		},
	}
	if n := rand.Intn(3 * len(faults)); n < len(faults) {
		return faults[n](ctx, c, p, read)
	}
	return read()
}

// TestChaos has readers of three images, two of which share chunks, while the
// store misbehaves in all ways at once, cached bytes are flipped, blobs are
// pruned, and images come and go. What a read returns must be right; that it
// fails is fine.
func TestChaos(t *testing.T) {
	before := runtime.NumGoroutine()
	images := []*lazyfstest.Image{
		small(t),
		lazyfstest.Build(t, format.BuildOptions{ChunkSize: 1 << 16}, map[string][]byte{"big": big(), "own": lazyfstest.Random(60, 300_000)}),
		lazyfstest.Golden(t, "dir-v6-batch"),
	}
	content := make([]map[string][]byte, len(images))
	for i, g := range images {
		content[i] = map[string][]byte{}
		for _, f := range files(t, g, 1) {
			content[i][f.path] = f.data
		}
		g.Blobs.SetFault(anyFault)
	}
	dir := t.TempDir()
	o := quick()
	o.MemoryLimit, o.CacheLimit, o.ReadTimeout, o.Backoff = 1<<20, 8<<20, 2*time.Second, time.Millisecond
	s := newStore(t, dir, o)
	// It goes on until there was something of everything.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var good, failed atomic.Int64
	var wg sync.WaitGroup
	for r := range 12 {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(r)))
			for ctx.Err() == nil {
				i := rnd.Intn(len(images))
				im, err := s.OpenImage(t.Context(), specOf(images[i]))
				if err != nil {
					t.Error(err)
					return
				}
				for path, want := range content[i] { // in random order
					if ctx.Err() != nil || rnd.Intn(40) == 0 {
						break
					}
					p := make([]byte, 1+rnd.Intn(min(len(want), 200_000)))
					off := rnd.Int63n(int64(len(want)))
					rctx, rcancel := context.WithTimeout(ctx, time.Duration(rnd.Intn(300))*time.Millisecond)
					n, err := im.ReadAt(rctx, inode(t, im, path), p, off)
					rcancel()
					if !bytes.Equal(p[:n], want[off:][:n]) {
						t.Errorf("%s: wrong bytes", path)
					}
					if err != nil && err != io.EOF {
						failed.Add(1)
						var ce *ChunkError
						if !errors.As(err, &ce) {
							t.Errorf("%s: %v is no chunk error", path, err)
						}
						continue
					}
					good.Add(1)
				}
				if err := im.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		rnd := rand.New(rand.NewSource(99))
		for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			names, _ := filepath.Glob(filepath.Join(dir, "blobs", "*"))
			if len(names) == 0 {
				continue
			}
			name := names[rnd.Intn(len(names))]
			if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
				if fi, err := f.Stat(); err == nil && fi.Size() > 0 {
					p := make([]byte, 1+rnd.Intn(4096))
					rnd.Read(p)
					f.WriteAt(p[:min(int64(len(p)), fi.Size())], rnd.Int63n(fi.Size()))
				}
				f.Close()
			}
			if rnd.Intn(20) == 0 {
				s.Prune(ctx, 0)
			}
			if st := s.Stats(); good.Load() > 1000 && failed.Load() > 0 && st.VerifyFailures*st.FetchRetries*st.CacheHits*st.CacheBad*st.SharedHits > 0 {
				cancel()
			}
		}
	})
	wg.Wait()
	st := s.Stats()
	t.Logf("%d reads, %d failed: %+v", good.Load(), failed.Load(), st)
	if good.Load() <= 1000 || st.VerifyFailures == 0 || st.FetchRetries == 0 || st.CacheHits == 0 {
		t.Errorf("too quiet: %d reads, %+v", good.Load(), st)
	}
	if st.InFlight != 0 {
		t.Errorf("%d claims are left without images", st.InFlight)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	o.ReadTimeout = 30 * time.Second
	s = newStore(t, dir, o)
	for i, g := range images {
		g.Blobs.SetFault(nil)
		im := openImage(t, s, specOf(g))
		for path, want := range content[i] {
			data, err := readWhole(t.Context(), im, inode(t, im, path), 1<<20)
			if err != nil || !bytes.Equal(data, want) {
				t.Errorf("in the end, %s: %v", path, err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, before %d: %s", runtime.NumGoroutine(), before, strings.TrimSpace(string(buf[:runtime.Stack(buf, true)])))
		}
	}
}
