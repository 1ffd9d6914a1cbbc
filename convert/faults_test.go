// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// TestCanceled stops a conversion at each of its steps.
func TestCanceled(t *testing.T) {
	for _, target := range []string{"oci:%s/x:lazy", "oci-archive:%s/x.tar:lazy", testRegistry(t, nil) + "/x:lazy%.0s"} {
		for stop := 1; stop < 12; stop += 2 {
			dir, work := t.TempDir(), t.TempDir()
			ctx, cancel := context.WithCancel(context.Background())
			var events atomic.Int32
			name := fmt.Sprintf(target, dir)
			_, err := tryConvert(t, ctx, goldenLayout(t, "src"), name, Options{WorkDir: work, Progress: func(Event) {
				if int(events.Add(1)) == stop {
					cancel()
				}
			}})
			cancel()
			if err == nil {
				if int(events.Load()) < stop {
					break // there are no more steps
				}
				continue // too late to stop it
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s stopped at event %d: %v", name, stop, err)
			}
			if left := append(files(t, dir), files(t, work)...); len(left) > 0 {
				t.Errorf("%s stopped at event %d: leaves %v", name, stop, left)
			}
		}
	}
}

// TestCanceledInLayout stops a conversion into a layout that has images already.
func TestCanceledInLayout(t *testing.T) {
	dir := t.TempDir()
	name := "oci:" + dir + "/x"
	convertTo(t, goldenLayout(t, "src"), name+":one", Options{})
	before, err := os.ReadFile(filepath.Join(dir, "x", "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err = tryConvert(t, ctx, goldenLayout(t, "v6-none"), name+":two", Options{Progress: func(e Event) {
		if e.Phase == PhaseDone {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, "x", "index.json"))
	if err != nil || string(after) != string(before) {
		t.Errorf("index.json changed: %v", err)
	}
	mustCheck(t, name)
}

// TestBrokenDownloads drops connections in the middle of blobs.
func TestBrokenDownloads(t *testing.T) {
	var broken atomic.Int32
	var spoil atomic.Bool
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if spoil.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && broken.Add(1)%2 == 1 {
				h.ServeHTTP(&cutWriter{ResponseWriter: w, left: 400_000}, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	_, s := open(t, goldenLayout(t, "src"))
	sink, err := OpenSink(context.Background(), parse(t, host+"/src:1"), IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(context.Background(), s, sink, "1", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	spoil.Store(true)
	name := "oci:" + t.TempDir() + "/x:lazy"
	convertTo(t, host+"/src:1", name, Options{})
	mustList(t, name)
	if broken.Load() < 6 {
		t.Errorf("only %d downloads", broken.Load())
	}
}

// TestStalledDownload meets a connection that goes silent in the middle of a blob.
func TestStalledDownload(t *testing.T) {
	var stall atomic.Bool
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && stall.CompareAndSwap(true, false) {
				h.ServeHTTP(&stallWriter{ResponseWriter: w, r: r, left: 20_000}, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	_, s := open(t, goldenLayout(t, "src"))
	sink, err := OpenSink(context.Background(), parse(t, host+"/src:1"), IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(context.Background(), s, sink, "1", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	from, err := OpenSource(context.Background(), parse(t, host+"/src:1"), IOOptions{IdleTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	root, err := from.Manifest(ctx, v1.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	im, err := parseManifest(root)
	if err != nil {
		t.Fatal(err)
	}
	stall.Store(true)
	r, err := from.Open(ctx, im.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); err != nil || n != im.Layers[0].Size {
		t.Errorf("%d bytes, %v", n, err)
	}
	if stall.Load() {
		t.Error("nothing stalled")
	}
}

// stallWriter says nothing more after some bytes, until the client leaves.
type stallWriter struct {
	http.ResponseWriter
	r    *http.Request
	left int
}

func (s *stallWriter) Write(p []byte) (int, error) {
	if len(p) > s.left {
		s.ResponseWriter.Write(p[:s.left])
		s.ResponseWriter.(http.Flusher).Flush()
		<-s.r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	s.left -= len(p)
	return s.ResponseWriter.Write(p)
}

// cutWriter ends the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// TestFailingPushes answers pushes with what registries answer on bad days.
func TestFailingPushes(t *testing.T) {
	var failed atomic.Int32
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			push := r.Method == http.MethodPut || r.Method == http.MethodPatch
			if push && failed.Add(1)%3 == 1 {
				http.Error(w, "try again", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	convertTo(t, goldenLayout(t, "src"), host+"/x:lazy", Options{})
	mustCheck(t, host+"/x:lazy")
}

// TestLyingRegistry serves other bytes than asked for.
func TestLyingRegistry(t *testing.T) {
	var lie atomic.Bool
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lie.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				h.ServeHTTP(&flipWriter{ResponseWriter: w}, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	_, s := open(t, goldenLayout(t, "src"))
	sink, err := OpenSink(context.Background(), parse(t, host+"/src:1"), IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(context.Background(), s, sink, "1", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	lie.Store(true)
	if _, err := tryConvert(t, context.Background(), host+"/src:1", "oci:"+t.TempDir()+"/x:lazy", Options{}); err == nil {
		t.Error("spoiled layers were converted")
	}
}

type flipWriter struct {
	http.ResponseWriter
	done bool
}

func (f *flipWriter) Write(p []byte) (int, error) {
	if !f.done && len(p) > 20 {
		q := append([]byte{}, p...)
		q[len(q)-9] ^= 1
		p, f.done = q, true
	}
	return f.ResponseWriter.Write(p)
}

// TestHugeManifest meets a manifest without end.
func TestHugeManifest(t *testing.T) {
	var sent atomic.Int64
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				h.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			for block := make([]byte, 1<<20); sent.Load() < 1<<30; {
				n, err := w.Write(block)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		})
	})
	_, s := open(t, host+"/x:1")
	if _, err := s.Manifest(context.Background(), v1.Descriptor{}); err == nil {
		t.Error("no error")
	}
	if n := sent.Load(); n > 100<<20 {
		t.Errorf("%d bytes were taken", n)
	}
}

// TestKilledWriter finds what a killed writer left in a layout.
func TestKilledWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	convertTo(t, goldenLayout(t, "src"), "oci:"+dir+":one", Options{})
	old, young := filepath.Join(dir, unfinished+"1"), filepath.Join(dir, unfinished+"2")
	for _, name := range []string{old, young} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-2 * staleAfter)
	if err := os.Chtimes(old, long, long); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, "oci:"+dir)
	convertTo(t, goldenLayout(t, "src"), "oci:"+dir+":two", Options{})
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("an old half file is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("a young one, perhaps in use, is gone: %v", err)
	}
}

// TestPipeInLayout finds a pipe where a blob should be, which nobody ever writes to.
func TestPipeInLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	res := convertTo(t, goldenLayout(t, "src"), "oci:"+dir+":one", Options{})
	blob := filepath.Join(dir, "blobs", "sha256", res.Platforms[0].Layers[0].Blob.Hex)
	if err := errors.Join(os.Remove(blob), unix.Mkfifo(blob, 0o600)); err != nil {
		t.Fatal(err)
	}
	if !refused(t, dirTree(dir), []string{"", "one"}) {
		t.Error("passes")
	}
}

// TestNoSilentPlainHTTP meets registries without TLS that are not on this machine.
func TestNoSilentPlainHTTP(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var asked []string
	dial := roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.Scheme)
		return nil, errors.New("nobody there")
	})
	s, err := OpenSource(ctx, parse(t, "10.1.2.3:5000/x:1"), IOOptions{Transport: dial})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Manifest(ctx, v1.Descriptor{}); err == nil {
		t.Error("no error")
	}
	for _, scheme := range asked {
		if scheme != "https" {
			t.Errorf("spoke %s to a private address", scheme)
		}
	}
	if len(asked) == 0 {
		t.Error("nothing was asked")
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestDamagedReuse finds an earlier blob in pieces and makes it anew.
func TestDamagedReuse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	name := "oci:" + dir + ":lazy"
	first := convertTo(t, goldenLayout(t, "src"), name, Options{})
	blob := filepath.Join(dir, "blobs", "sha256", first.Platforms[0].Layers[0].Blob.Hex)
	raw, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw[len(raw)-2000:])
	if err := os.WriteFile(blob, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	again := convertTo(t, goldenLayout(t, "src"), name, Options{})
	if again.Digest != first.Digest || again.Platforms[0].Layers[0].How != PhaseDone {
		t.Errorf("%s, first layer %s", again.Digest, again.Platforms[0].Layers[0].How)
	}
	mustCheck(t, name)
}
