// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// registryBlob is a blob of a registry.
type registryBlob struct {
	p    *Repository
	hex  string
	size int64

	mu    sync.Mutex
	at    *location // nil: ask the registry
	until time.Time
}

// location is where the registry redirected to. ours: it is on the same host,
// with the same scheme, and gets the credentials too.
type location struct {
	url  *url.URL
	ours bool
}

func (b *registryBlob) Size() int64 { return b.size }

// ReadAt fetches the range with one request, and what is missing of it when the
// body breaks with further ones.
func (b *registryBlob) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read blob sha256:%s: negative offset %d", b.hex, off)
	}
	want, end := clip(len(p), off, b.size)
	done := 0
	var err error
	for done < want && err == nil {
		err = retry(ctx, b.p.reg.retried, func(stalls int) (bool, error) {
			n, err := b.fetch(ctx, p[done:want], off+int64(done), stalls)
			done += n
			b.p.reg.stats.bytes.Add(int64(n))
			if err != nil {
				b.forget(b.remembered())
			}
			return n > 0, err
		})
	}
	if err != nil {
		return done, &Error{Op: "read", Repo: b.p.repo.Name(), Blob: b.hex, Off: off + int64(done), Err: err}
	}
	if end {
		return done, io.EOF
	}
	return done, nil
}

// fetch does one request for p and returns how many of its bytes came. Without
// an error it got at least one, if not all.
func (b *registryBlob) fetch(ctx context.Context, p []byte, off int64, stalls int) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	last := off + int64(len(p)) - 1
	resp, err := b.ask(ctx, http.MethodGet, fmt.Sprintf("bytes=%d-%d", off, last), stalls)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	host := resp.Request.URL.Host
	if !plainEncoding(resp) {
		return 0, encodingError(resp)
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		r, err := parseContentRange(resp.Header.Get("Content-Range"))
		switch {
		case err != nil:
			return 0, protocolError(host, "%v", err)
		case r.first != off || r.last > last:
			return 0, protocolError(host, "bytes %d to %d instead of %d to %d", r.first, r.last, off, last)
		case r.total >= 0 && r.total != b.size:
			return 0, protocolError(host, "the blob has %d bytes now, and had %d", r.total, b.size)
		case resp.ContentLength >= 0 && resp.ContentLength != r.last-r.first+1:
			return 0, protocolError(host, "a body of %d bytes for bytes %d to %d", resp.ContentLength, r.first, r.last)
		}
		return b.receive(resp, p[:r.last-r.first+1])
	case http.StatusOK:
		return b.receiveWhole(resp, p, off)
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, protocolError(host, "bytes %d to %d are out of range, of a blob of %d bytes", off, last, b.size)
	}
	return 0, statusError(resp, false)
}

// receive reads the body of a range into p. A body of unknown length must end
// with p.
func (b *registryBlob) receive(resp *http.Response, p []byte) (int, error) {
	host := resp.Request.URL.Host
	n, err := io.ReadFull(resp.Body, p)
	if err != nil {
		return n, cutShort(host, n, len(p), err)
	}
	if resp.ContentLength < 0 {
		if extra, _ := io.ReadFull(resp.Body, make([]byte, 1)); extra > 0 {
			return 0, protocolError(host, "more bytes than the range has")
		}
	}
	return n, nil
}

// receiveWhole takes the range out of an answer that ignores it and sends the
// whole blob.
func (b *registryBlob) receiveWhole(resp *http.Response, p []byte, off int64) (int, error) {
	host := resp.Request.URL.Host
	if resp.ContentLength >= 0 && resp.ContentLength != b.size {
		return 0, protocolError(host, "a body of %d bytes for a blob of %d", resp.ContentLength, b.size)
	}
	b.p.reg.warnRangeless(host)
	if n, err := io.CopyN(io.Discard, resp.Body, off); err != nil {
		return 0, cutShort(host, int(n), int(off), err)
	}
	n, err := io.ReadFull(resp.Body, p)
	if err != nil {
		return n, cutShort(host, n, len(p), err)
	}
	return n, nil
}

func cutShort(host string, n, want int, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &answerError{text: fmt.Sprintf("%s: the body ended after %d of %d bytes", host, n, want), err: io.ErrUnexpectedEOF}
	}
	return err
}

func (b *registryBlob) remembered() *location {
	b.mu.Lock()
	defer b.mu.Unlock()
	if time.Now().After(b.until) {
		b.at = nil
	}
	return b.at
}

func (b *registryBlob) remember(at *location) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at, b.until = at, time.Now().Add(b.p.reg.locationTTL)
}

// forget drops the location at, unless there is a newer one.
func (b *registryBlob) forget(at *location) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at == at {
		b.at = nil
	}
}

func (r *Registry) warnRangeless(host string) {
	r.mu.Lock()
	known := r.rangeless[host]
	if len(r.rangeless) < maxHosts {
		r.rangeless[host] = true
	}
	r.mu.Unlock()
	if !known {
		r.log.Warn("registry ignores ranges, reads fetch whole blobs", "host", host)
	}
}
