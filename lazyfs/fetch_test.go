// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/format"
	"lighter/lazyfs/lazyfstest"
)

// small is an image of one 64 KiB chunk size: big (20 chunks), two (2 chunks)
// and many small files.
func small(t testing.TB) *lazyfstest.Image {
	files := map[string][]byte{"big": lazyfstest.Random(1, 20<<16), "two": lazyfstest.Random(2, 100_000)}
	for i := range 40 {
		files["s/"+string(rune('A'+i))] = lazyfstest.Random(int64(100+i), 1000+i)
	}
	return lazyfstest.Build(t, format.BuildOptions{ChunkSize: 1 << 16}, files)
}

// check reads a whole file in one piece and compares it.
func check(t testing.TB, im *Image, path string, want []byte) {
	t.Helper()
	p := make([]byte, len(want))
	n, err := im.ReadAt(t.Context(), inode(t, im, path), p, 0)
	if n != len(want) || (err != nil && err != io.EOF) || !bytes.Equal(p, want) {
		t.Errorf("%s: %d of %d bytes, %v, right: %v", path, n, len(want), err, bytes.Equal(p, want))
	}
}

func big() []byte { return lazyfstest.Random(1, 20<<16) }
func two() []byte { return lazyfstest.Random(2, 100_000) }

// TestOneFetchPerChunk has 1,000 readers of one cold file at once.
func TestOneFetchPerChunk(t *testing.T) {
	g := small(t)
	g.Blobs.SetFault(lazyfstest.Slow(20 * time.Millisecond))
	s := newStore(t, t.TempDir(), plain())
	im := openImage(t, s, specOf(g))
	ino, want := inode(t, im, "big"), big()
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range 1000 {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(int64(i)))
			<-start
			for range 3 {
				p := make([]byte, 1+rnd.Intn(4000))
				off := rnd.Int63n(int64(len(want) - len(p)))
				n, err := im.ReadAt(t.Context(), ino, p, off)
				if n != len(p) || err != nil || !bytes.Equal(p, want[off:][:n]) {
					t.Errorf("%d bytes at %d: %d, %v", len(p), off, n, err)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	// All chunks were wanted, and with each the odd neighbour when a read
	// crossed a border: never more requests than chunks, no byte twice.
	if n := g.Blobs.Requests.Load(); n > 20 || s.Stats().FetchedChunks != 20 {
		t.Errorf("%d requests, %d chunks fetched; the file has 20", n, s.Stats().FetchedChunks)
	}
	seen := map[int64]bool{}
	for _, c := range g.Blobs.Calls() {
		if seen[c.Off] {
			t.Errorf("offset %d was fetched twice", c.Off)
		}
		seen[c.Off] = true
	}
}

// TestMerge: what lies together in the blob comes with one request.
func TestMerge(t *testing.T) {
	g := small(t)
	s := newStore(t, t.TempDir(), plain())
	im := openImage(t, s, specOf(g))
	check(t, im, "big", big())
	if n := g.Blobs.Requests.Load(); n != 1 {
		t.Errorf("%d requests for 20 neighbouring chunks", n)
	}
	im.Close()

	// Around what is already there, and is too much to fetch again, with two.
	s = newStore(t, t.TempDir(), plain())
	im = openImage(t, s, specOf(g))
	ino := inode(t, im, "big")
	im.ReadAt(t.Context(), ino, make([]byte, 2<<16), 5<<16)
	g.Blobs.Calls()
	check(t, im, "big", big())
	if calls := g.Blobs.Calls(); len(calls) != 2 {
		t.Errorf("requests around a gap of two chunks: %v", calls)
	}
	if n := s.Stats().FetchedChunks; n != 20 {
		t.Errorf("%d chunks fetched", n)
	}
}

// TestNeighbours: reading one small file brings those stored behind it.
func TestNeighbours(t *testing.T) {
	g := small(t)
	o := quick()
	o.ReadAhead = -1
	s := newStore(t, t.TempDir(), o)
	im := openImage(t, s, specOf(g))
	for i := range 40 {
		check(t, im, "s/"+string(rune('A'+i)), lazyfstest.Random(int64(100+i), 1000+i))
	}
	if n := g.Blobs.Requests.Load(); n > 2 {
		t.Errorf("%d requests for 40 small files", n)
	}
}

func TestReadAhead(t *testing.T) {
	const size = 24 << 20
	g := lazyfstest.Build(t, format.BuildOptions{}, map[string][]byte{"f": lazyfstest.Random(5, size)})
	g.Blobs.SetFault(lazyfstest.Slow(2 * time.Millisecond))
	s := newStore(t, t.TempDir(), quick())
	im := openImage(t, s, specOf(g))
	data, err := readWhole(t.Context(), im, inode(t, im, "f"), 128<<10)
	if err != nil || !bytes.Equal(data, lazyfstest.Random(5, size)) {
		t.Fatal(err)
	}
	st := s.Stats()
	if st.FetchRequests > 16 || st.FetchedChunks != 24 || st.ReadAheadBytes < size/2 {
		t.Errorf("sequential read of 24 chunks: %+v", st)
	}
}

// TestTransientFaults: a read survives what passes.
func TestTransientFaults(t *testing.T) {
	faults := map[string]lazyfstest.Fault{
		"down":  lazyfstest.Down,
		"reset": lazyfstest.Reset,
		"short": func(_ context.Context, _ lazyfstest.Call, p []byte, read func() (int, error)) (int, error) {
			n, _ := read()
			return n / 3, nil
		},
		"nothing": func(context.Context, lazyfstest.Call, []byte, func() (int, error)) (int, error) { return 0, nil },
		"eof":     func(context.Context, lazyfstest.Call, []byte, func() (int, error)) (int, error) { return 0, io.EOF },
		"timeout": func(context.Context, lazyfstest.Call, []byte, func() (int, error)) (int, error) {
			return 0, context.DeadlineExceeded
		},
		"canceled": func(context.Context, lazyfstest.Call, []byte, func() (int, error)) (int, error) {
			return 0, context.Canceled
		},
	}
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			g := small(t)
			g.Blobs.SetFault(lazyfstest.First(3, f))
			s := newStore(t, t.TempDir(), quick())
			im := openImage(t, s, specOf(g))
			check(t, im, "big", big())
			check(t, im, "two", two())
			if st := s.Stats(); st.FetchErrors == 0 || st.FetchRetries == 0 || st.ReadErrors != 0 || st.VerifyFailures != 0 {
				t.Errorf("stats: %+v", st)
			}
		})
	}
	t.Run("open", func(t *testing.T) {
		g := small(t)
		n := 0
		g.Blobs.SetOpenFault(func(context.Context, string) error {
			if n++; n < 4 {
				return lazyfstest.ErrDown
			}
			return nil
		})
		im := openImage(t, newStore(t, t.TempDir(), quick()), specOf(g))
		check(t, im, "big", big())
	})
	t.Run("hang", func(t *testing.T) {
		g := small(t)
		g.Blobs.SetFault(lazyfstest.First(1, lazyfstest.Hang))
		o := quick()
		o.ReadTimeout = 1500 * time.Millisecond
		im := openImage(t, newStore(t, t.TempDir(), o), specOf(g))
		check(t, im, "big", big())
	})
}

// TestWrongOnce: wrong bytes are fetched again, and told.
func TestWrongOnce(t *testing.T) {
	g := small(t)
	g.Blobs.SetFault(lazyfstest.First(1, lazyfstest.Flip))
	var log logBuffer
	o := plain()
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := newStore(t, t.TempDir(), o)
	im := openImage(t, s, specOf(g))
	check(t, im, "two", two())
	if st := s.Stats(); st.VerifyFailures != 1 || st.Refetches != 1 || st.Corrupt != 0 || st.FetchRequests != 2 {
		t.Errorf("stats: %+v", st)
	}
	id := im.blobs[0].info.ID
	for _, want := range []string{"level=WARN", "blob=" + id, "chunk=", "wanted=", "digest is"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q: %s", want, log.String())
		}
	}
}

// TestWrongAlways: readers get an error that names the chunk, never bytes;
// other chunks are not affected, and when the store is right again, so are reads.
func TestWrongAlways(t *testing.T) {
	g := small(t)
	s := newStore(t, t.TempDir(), plain())
	im := openImage(t, s, specOf(g))
	ino := inode(t, im, "big")
	g.Blobs.SetFault(lazyfstest.Flip)
	p := make([]byte, 10)
	n, err := im.ReadAt(t.Context(), ino, p, 3<<16)
	var ce *ChunkError
	if n != 0 || !errors.Is(err, format.ErrCorrupt) || !errors.As(err, &ce) || ce.Blob != im.blobs[0].info.ID || !bytes.Equal(p, make([]byte, 10)) {
		t.Fatalf("got %d, %v, % x", n, err, p)
	}
	if st := s.Stats(); st.VerifyFailures != 2 || st.Refetches != 1 || st.Corrupt != 1 || st.ReadErrors != 1 || st.FetchRequests != 2 {
		t.Errorf("stats: %+v", st)
	}
	g.Blobs.SetFault(nil)
	check(t, im, "big", big())
}

// TestBlobDiffers: a blob that is shorter or other than its tables say.
func TestBlobDiffers(t *testing.T) {
	g := small(t)
	im := openImage(t, newStore(t, t.TempDir(), plain()), specOf(g))
	id := im.blobs[0].info.ID
	src, _ := g.Blobs.Open(t.Context(), id)
	whole := make([]byte, src.Size())
	src.ReadAt(t.Context(), whole, 0)
	for name, blob := range map[string][]byte{"cut": whole[:70000], "empty": {}, "zeros": make([]byte, len(whole))} {
		im := openImage(t, newStore(t, t.TempDir(), plain()), specOf(g))
		g.Blobs.Put(id, blob)
		start := time.Now()
		p := make([]byte, 1<<20)
		n, err := im.ReadAt(t.Context(), inode(t, im, "big"), p, 1<<18)
		if n != 0 || !errors.Is(err, format.ErrCorrupt) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
	}
	g.Blobs.Put(id, nil)
	start := time.Now()
	im = openImage(t, newStore(t, t.TempDir(), plain()), specOf(g))
	if _, err := im.ReadAt(t.Context(), inode(t, im, "big"), make([]byte, 1), 0); !errors.Is(err, fs.ErrNotExist) || time.Since(start) > 2*time.Second {
		t.Errorf("missing blob: %v after %v", err, time.Since(start))
	}
}

// TestOutage is a store that is away for a part of a read's time, then for
// longer, then back.
func TestOutage(t *testing.T) {
	g := small(t)
	o := plain()
	o.ReadTimeout = 1500 * time.Millisecond
	var log logBuffer
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := newStore(t, t.TempDir(), o)
	im := openImage(t, s, specOf(g))
	ino := inode(t, im, "big")
	p := make([]byte, 100)
	for _, f := range []lazyfstest.Fault{lazyfstest.Down, lazyfstest.Hang} {
		g.Blobs.SetFault(f)
		time.AfterFunc(400*time.Millisecond, func() { g.Blobs.SetFault(nil) })
		if n, err := im.ReadAt(t.Context(), ino, p, 0); n != 100 || err != nil || !bytes.Equal(p, big()[:100]) {
			t.Errorf("short outage: %d, %v", n, err)
		}
		g.Blobs.SetFault(f)
		start := time.Now()
		n, err := im.ReadAt(t.Context(), ino, p, 10<<16)
		if d := time.Since(start); n != 0 || !errors.Is(err, context.DeadlineExceeded) || d < 1400*time.Millisecond || d > 4*time.Second {
			t.Errorf("long outage: %d, %v, after %v", n, err, d)
		}
		g.Blobs.SetFault(nil)
		start = time.Now()
		if n, err := im.ReadAt(t.Context(), ino, p, 10<<16); n != 100 || err != nil || !bytes.Equal(p, big()[10<<16:][:100]) {
			t.Errorf("after the outage: %d, %v", n, err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("after the outage a read took %v", d)
		}
		// The second round reads other bytes.
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = newStore(t, t.TempDir(), o)
		im = openImage(t, s, specOf(g))
	}
	if n := strings.Count(log.String(), "trying on"); n == 0 || n > 6 {
		t.Errorf("%d lines about failing fetches: %s", n, log.String())
	}
	if !strings.Contains(log.String(), "can be fetched again") {
		t.Error("the end of the outage is not in the log")
	}
}

// TestWaitersLeave: one reader's context does not end another's read, and when
// the last has left, the fetch ends.
func TestWaitersLeave(t *testing.T) {
	g := small(t)
	ended := make(chan struct{})
	release := make(chan struct{})
	g.Blobs.SetFault(func(ctx context.Context, _ lazyfstest.Call, _ []byte, read func() (int, error)) (int, error) {
		select {
		case <-ctx.Done():
			close(ended)
			return 0, ctx.Err()
		case <-release:
			return read()
		}
	})
	s := newStore(t, t.TempDir(), plain())
	im := openImage(t, s, specOf(g))
	ino := inode(t, im, "big")
	read := func(ctx context.Context) chan error {
		c := make(chan error, 1)
		go func() {
			p := make([]byte, 200)
			n, err := im.ReadAt(ctx, ino, p, 1000)
			if err == nil && (n != 200 || !bytes.Equal(p, big()[1000:1200])) {
				err = errors.New("wrong bytes")
			}
			c <- err
		}()
		return c
	}
	ctx1, cancel1 := context.WithCancel(t.Context())
	ctx2, cancel2 := context.WithCancel(t.Context())
	r1, r2 := read(ctx1), read(ctx2)
	for s.Stats().Joined == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel1()
	// Which of the two holds the claim is not known; either may leave.
	if err := <-r1; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled reader: %v", err)
	}
	select {
	case err := <-r2:
		t.Fatalf("other reader: %v", err)
	case <-ended:
		t.Fatal("fetch ended with a reader left")
	case <-time.After(30 * time.Millisecond):
	}
	cancel2()
	if err := <-r2; !errors.Is(err, context.Canceled) {
		t.Errorf("second reader: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("fetch goes on without readers")
	}
	close(release)
	if err := <-read(t.Context()); err != nil {
		t.Errorf("read after an abandoned fetch: %v", err)
	}
}

// TestCloseEndsReads: Close does not wait for a store that hangs.
func TestCloseEndsReads(t *testing.T) {
	g := small(t)
	g.Blobs.SetFault(lazyfstest.Hang)
	s := newStore(t, t.TempDir(), quick())
	im := openImage(t, s, specOf(g))
	ino := inode(t, im, "big")
	errs := make(chan error, 8)
	for i := range 8 {
		go func() {
			_, err := im.ReadAt(t.Context(), ino, make([]byte, 1), int64(i)<<17)
			errs <- err
		}()
	}
	for g.Blobs.Requests.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	if err := im.Close(); err != nil || time.Since(start) > 2*time.Second {
		t.Errorf("close: %v after %v", err, time.Since(start))
	}
	for range 8 {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("read while closing: %v", err)
		}
	}
	if _, err := im.ReadAt(t.Context(), ino, make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if err := im.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if _, err := im.Bootstrap().LookupPath("big"); !errors.Is(err, ErrClosed) {
		t.Errorf("bootstrap after close: %v", err)
	}
	if im.Complete() {
		t.Error("complete after close")
	}
	if _, err := im.Missing(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("missing after close: %v", err)
	}
}

// TestOtherImagesStore: a reader whose own store works is not harmed by
// joining the fetch of an image whose store does not.
func TestOtherImagesStore(t *testing.T) {
	for name, fault := range map[string]error{"gone": fs.ErrNotExist, "forbidden": fs.ErrPermission, "down": lazyfstest.ErrDown} {
		t.Run(name, func(t *testing.T) {
			g := small(t)
			bad := lazyfstest.NewBlobs(nil)
			entered, release := make(chan struct{}, 10), make(chan struct{})
			bad.SetOpenFault(func(ctx context.Context, _ string) error {
				select {
				case entered <- struct{}{}:
				default:
				}
				<-release
				return fault
			})
			s := newStore(t, t.TempDir(), plain())
			spec := specOf(g)
			spec.Opener = bad
			poor, rich := openImage(t, s, spec), openImage(t, s, specOf(g))
			errs := make(chan error, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				_, err := poor.ReadAt(ctx, inode(t, poor, "big"), make([]byte, 1), 0)
				errs <- err
			}()
			<-entered
			done := make(chan struct{})
			go func() {
				defer close(done)
				check(t, rich, "big", big())
			}()
			for s.Stats().Joined == 0 {
				time.Sleep(time.Millisecond)
			}
			close(release)
			<-done
			if fault == lazyfstest.ErrDown {
				fault = nil
				cancel()
			}
			// By now the chunk is in the cache: the reader without a store may
			// have been given it.
			if err := <-errs; err != nil && fault != nil && !errors.Is(err, fault) {
				t.Errorf("reader without a store: %v", err)
			}
		})
	}
}

// TestRefusalIsShort: a store that lacks a blob is not asked by every read, but
// soon again.
func TestRefusalIsShort(t *testing.T) {
	g := small(t)
	im := openImage(t, newStore(t, t.TempDir(), plain()), specOf(g))
	id, ino := im.blobs[0].info.ID, inode(t, im, "big")
	src, err := g.Blobs.Open(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	blob := make([]byte, src.Size())
	src.ReadAt(t.Context(), blob, 0)
	g.Blobs.Put(id, nil)
	opens := g.Blobs.Opens.Load()
	for range 50 {
		if _, err := im.ReadAt(t.Context(), ino, make([]byte, 1), 0); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if n := g.Blobs.Opens.Load() - opens; n > 2 {
		t.Errorf("store was asked %d times", n)
	}
	g.Blobs.Put(id, blob)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if n, err := im.ReadAt(t.Context(), ino, make([]byte, 1), 0); n == 1 && err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("blob is back, still %v", err)
		}
	}
}

func TestRate(t *testing.T) {
	var r rate
	if n := r.within(time.Second, 100); n != 100 {
		t.Errorf("nothing known: %d", n)
	}
	r.note(10, time.Nanosecond)
	r.note(1<<20, 0)
	if n := r.within(time.Second, 100); n != 100 {
		t.Errorf("nothing to learn from: %d", n)
	}
	r.note(100_000, time.Second)
	if n := r.within(time.Second, 1<<30); n != 100_000 {
		t.Errorf("100,000 bytes a second: %d", n)
	}
	for range 50 {
		r.note(1_000_000, time.Second)
	}
	if n := r.within(500*time.Millisecond, 1<<30); n < 490_000 || n > 500_000 {
		t.Errorf("1,000,000 bytes a second, half of one: %d", n)
	}
}

func TestAhead(t *testing.T) {
	const m = 1 << 20
	var a aheadTable
	for i, c := range []struct{ off, n, from, to int64 }{
		{0, m / 8, 0, 0},                           // a first read
		{m / 8, m / 8, 2 * m / 8, 10 * m / 8},      // the next part
		{2 * m / 8, m / 8, 0, 0},                   // more than half a window is left
		{6 * m / 8, m / 8, 10 * m / 8, 23 * m / 8}, // out of order, less than half is left
		{4 * m / 8, m / 8, 0, 0},                   // what was passed over
		{50 * m, m, 0, 0},                          // a jump
		{51 * m, m, 52 * m, 53 * m},                // and on
		{10 * m, m, 0, 0},                          // back
	} {
		if from, to := a.advance(7, c.off, c.n, 8*m); from != c.from || to != c.to {
			t.Errorf("step %d: read %d to %d: ahead %d to %d, want %d to %d", i, c.off, c.off+c.n, from, to, c.from, c.to)
		}
	}
}
