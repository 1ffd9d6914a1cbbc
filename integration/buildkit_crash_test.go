// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestBuildKitKilled ends the daemon with SIGKILL at eight moments of a build,
// its export and its push: what the next build makes of the cache that is left
// is the image that an undisturbed build makes.
func TestBuildKitKilled(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	b := e.StartBuildKit(t)
	dir := contextDir(t, e, small)
	ref := e.Registry.Ref("killed")
	output := nydusOutput(ref) + ",rewrite-timestamp=true"
	epoch := []string{"--opt", "build-arg:SOURCE_DATE_EPOCH=1700000000"}
	full := time.Hour
	for range 3 {
		start := time.Now()
		b.Build(t, dir, output, append(epoch, "--no-cache")...)
		full = min(full, time.Since(start))
	}
	want := digestOf(t, ref)
	const moments = 8
	for i := range moments {
		cmd := b.Command(t, buildArgs(dir, output, append(epoch, "--no-cache"))...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(full * time.Duration(i+1) / moments)
		b.Kill(t)
		err := cmd.Wait()
		t.Logf("killed after %v of %v: %v", full*time.Duration(i+1)/moments, full, err)
		b.Start(t)
		b.Build(t, dir, output, epoch...)
		if got := digestOf(t, ref); got != want {
			t.Errorf("after a kill the build makes %s, undisturbed %s", got, want)
		}
		e.Lighter(t, "check", ref)
	}
}

// cutter is a proxy to a registry that can break uploads.
type cutter struct {
	*httptest.Server

	mu     sync.Mutex
	broken bool
	done   map[string]int // uploads that came to their end, by digest
}

func newCutter(t *testing.T, registry string) *cutter {
	c := &cutter{done: map[string]int{}}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: registry})
		r.Out.Host = r.In.Host // the registry names its uploads by it
	}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if digest := r.URL.Query().Get("digest"); r.Method == http.MethodPut && digest != "" {
			if c.cut() {
				panic(http.ErrAbortHandler) // ends the connection
			}
			defer func() {
				c.mu.Lock()
				c.done[digest]++
				c.mu.Unlock()
			}()
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

// cut lets two uploads through while the registry is broken.
func (c *cutter) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken && len(c.done) >= 2
}

// TestBuildKitBrokenPush pushes to a registry that fails on the way: the error
// says what could not be pushed, and the next push sends what is missing alone.
func TestBuildKitBrokenPush(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	b := e.StartBuildKit(t)
	dir := contextDir(t, e, small)
	c := newCutter(t, e.Registry.Host)
	c.broken = true
	ref := strings.TrimPrefix(c.URL, "http://") + "/broken:latest"
	out, err := b.TryCtl(t, buildArgs(dir, nydusOutput(ref), nil)...)
	if err == nil || !strings.Contains(out, "push "+ref+": ") {
		t.Fatalf("the push to a broken registry: %v\n%s", err, out)
	}
	c.mu.Lock()
	c.broken = false
	before := len(c.done)
	c.mu.Unlock()
	out = b.Build(t, dir, nydusOutput(ref))
	if n := layersConverted(out); n != 0 {
		t.Errorf("%d layers were converted again:\n%s", n, out)
	}
	for digest, n := range c.done {
		if n > 1 {
			t.Errorf("%s was uploaded %d times", digest, n)
		}
	}
	if before < 1 || len(c.done) <= before {
		t.Errorf("%d blobs were there, %d in the end", before, len(c.done))
	}
	e.Lighter(t, "check", e.Registry.Ref("broken"))
	mustBeTwoEntries(t, e.Registry.Ref("broken"))
}
