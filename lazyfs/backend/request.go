// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// minProgress is how many bytes a body must move for the idle timer to start
// again, so that a server which sends a byte now and then counts as stalled.
const minProgress = 1024

// request is one request to one host.
type request struct {
	method string
	url    *url.URL
	header http.Header // owned by roundTrip
	body   string
	stalls int // how often in a row this stalled before: patience is doubled each time
}

// roundTrip sends one request when its host has a free slot. The slot is kept
// until the body is closed. Answers of 429 are counted here, and Retry-After is
// honoured for all requests to the host. Errors are redacted.
func (r *Registry) roundTrip(ctx context.Context, q request) (*http.Response, error) {
	host := q.url.Host
	s, err := r.limiter(host).acquire(ctx)
	if err != nil {
		return nil, err
	}
	idle := r.idle << min(q.stalls, 3)
	g := newGuard(ctx, idle)
	var content io.Reader
	if q.body != "" {
		content = strings.NewReader(q.body)
	}
	req, err := http.NewRequestWithContext(g.ctx, q.method, q.url.String(), content)
	if err != nil {
		g.stop()
		s.release()
		return nil, protocolError(host, "a location that is no URL")
	}
	if q.header != nil {
		req.Header = q.header
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	r.stats.requests.Add(1)
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		stalled := g.stalled()
		g.stop()
		s.release()
		r.stats.failures.Add(1)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case stalled:
			return nil, stalledError(host)
		}
		err = connectionError(host, err)
		if judge(err) == permanent {
			r.forgetHost(host)
		}
		return nil, err
	}
	g.kick()
	r.heed(resp, s)
	resp.Body = &body{rc: resp.Body, ctx: ctx, g: g, s: s, host: host}
	return resp, nil
}

// heed takes from an answer what it says about the host's load.
func (r *Registry) heed(resp *http.Response, s *slot) {
	wait, named := retryAfter(resp.Header, time.Now())
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		r.stats.throttled.Add(1)
		limit := s.throttled()
		r.log.Warn("registry limits requests", "host", resp.Request.URL.Host, "concurrency", limit, "wait", wait)
		if named {
			s.pause(wait)
		}
	case code == http.StatusServiceUnavailable && named:
		s.pause(wait)
	case code < 400:
		s.succeeded()
	}
}

// guard is a context that ends when nothing happens for too long.
type guard struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
}

func newGuard(ctx context.Context, idle time.Duration) *guard {
	gctx, cancel := context.WithCancelCause(ctx)
	return &guard{gctx, cancel, time.AfterFunc(idle, func() { cancel(errStalled) }), idle}
}

func (g *guard) kick()         { g.timer.Reset(g.idle) }
func (g *guard) stalled() bool { return errors.Is(context.Cause(g.ctx), errStalled) }
func (g *guard) stop()         { g.timer.Stop(); g.cancel(nil) }

// body is the body of an answer: reads fail with redacted errors, and closing it
// gives the slot back. One goroutine uses it.
type body struct {
	rc    io.ReadCloser
	ctx   context.Context
	g     *guard
	s     *slot
	host  string
	moved int
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.rc.Read(p)
	if b.moved += n; b.moved >= minProgress {
		b.moved = 0
		b.g.kick()
	}
	if err == nil || err == io.EOF {
		return n, err
	}
	switch {
	case b.ctx.Err() != nil:
		return n, b.ctx.Err()
	case b.g.stalled():
		return n, stalledError(b.host)
	}
	return n, connectionError(b.host, err)
}

func (b *body) Close() error {
	err := b.rc.Close()
	b.g.stop()
	b.s.release()
	return err
}

// isPlain reports whether err shows that host speaks no https.
func isPlain(err error, host string) bool {
	if speaksHTTP(err) {
		return true
	}
	hasPort := strings.Contains(strings.TrimPrefix(host, hostname(host)), ":")
	return !hasPort && errors.Is(err, syscall.ECONNREFUSED)
}

// speaksHTTP reports whether err shows that a TLS handshake was answered with plain http.
func speaksHTTP(err error) bool {
	var header tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &header) && string(header.RecordHeader[:]) == "HTTP/"
}
