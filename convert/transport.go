// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// guard lets plain HTTP through to loopback only, unless the user permitted
// more: neither a private address nor a redirect may drop TLS silently.
type guard struct {
	inner http.RoundTripper
	plain bool
	idle  time.Duration // longest pause within a download
}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.plain && !loopback(req.URL.Hostname()) {
		return nil, fmt.Errorf("%s: refused to speak plain http (hint: --plain-http)", req.URL.Host)
	}
	resp, err := g.inner.RoundTrip(req)
	if err == nil {
		resp.Body = newIdleBody(resp.Body, g.idle)
		if strings.Contains(req.URL.Path, "/manifests/") { // read into memory by go-containerregistry
			resp.Body = &boundedBody{boundedReader{resp.Body, maxManifest, errManifestSize}, resp.Body}
		}
	}
	return resp, err
}

var errManifestSize = fmt.Errorf("manifest has more than %d bytes", maxManifest)

type boundedBody struct {
	boundedReader
	io.Closer
}

// idleBody breaks a download off when no byte has come for a while: the other
// side may be gone without a word.
type idleBody struct {
	io.ReadCloser
	idle  time.Duration
	timer *time.Timer
	fired atomic.Bool
}

func newIdleBody(r io.ReadCloser, idle time.Duration) io.ReadCloser {
	b := &idleBody{ReadCloser: r, idle: idle}
	b.timer = time.AfterFunc(idle, func() {
		b.fired.Store(true)
		r.Close()
	})
	b.timer.Stop() // runs during reads only
	return b
}

func (b *idleBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && b.fired.Load() {
		err = fmt.Errorf("no byte for %s: %w", b.idle, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// answerTimeout is how long a registry may think after it has been sent a request.
const answerTimeout = 2 * time.Minute

// NewTransport returns go-containerregistry's transport with an end to waiting.
func NewTransport() *http.Transport {
	t, ok := remote.DefaultTransport.(*http.Transport)
	if !ok {
		t = http.DefaultTransport.(*http.Transport)
	}
	t = t.Clone()
	t.ResponseHeaderTimeout = answerTimeout
	return t
}

var defaultTransport = NewTransport()

func guardedTransport(o IOOptions) http.RoundTripper {
	t, idle := o.Transport, o.IdleTimeout
	if t == nil {
		t = defaultTransport
	}
	if idle <= 0 {
		idle = time.Minute
	}
	return guard{t, o.PlainHTTP, idle}
}
