// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// rawManifest is a Manifest as go-containerregistry pushes it.
type rawManifest struct{ m Manifest }

func (r rawManifest) RawManifest() ([]byte, error)        { return r.m.Raw, nil }
func (r rawManifest) MediaType() (types.MediaType, error) { return r.m.MediaType, nil }

// upload is a blob as go-containerregistry pushes it.
type upload struct {
	d      v1.Descriptor
	open   func() (io.ReadCloser, error)
	opened bool
}

var errNotUncompressed = errors.New("the uncompressed form is not known")

func (u *upload) Digest() (v1.Hash, error)             { return u.d.Digest, nil }
func (u *upload) DiffID() (v1.Hash, error)             { return v1.Hash{}, errNotUncompressed }
func (u *upload) Uncompressed() (io.ReadCloser, error) { return nil, errNotUncompressed }
func (u *upload) Size() (int64, error)                 { return u.d.Size, nil }
func (u *upload) MediaType() (types.MediaType, error)  { return u.d.MediaType, nil }
func (u *upload) Compressed() (io.ReadCloser, error)   { u.opened = true; return u.open() }

// rangeClient reads parts of blobs of one repository.
type rangeClient struct {
	repo name.Repository
	o    IOOptions

	mu     sync.Mutex
	client *http.Client // set by the first successful handshake
}

func newRangeClient(repo name.Repository, o IOOptions) *rangeClient {
	return &rangeClient{repo: repo, o: o}
}

// login does the registry's handshake once; a failed one is tried again.
func (c *rangeClient) login(ctx context.Context) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		return c.client, nil
	}
	auth, err := keychain(c.o).Resolve(c.repo)
	if err != nil {
		return nil, err
	}
	t, err := transport.NewWithContext(ctx, c.repo.Registry, auth, transport.NewRetry(guardedTransport(c.o)), []string{c.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	c.client = &http.Client{Transport: t}
	return c.client, nil
}

// do asks for the bytes from off to end (inclusive; -1: all) of a blob.
func (c *rangeClient) do(ctx context.Context, method string, d v1.Descriptor, off, end int64) (*http.Response, error) {
	client, err := c.login(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.repo.Registry, err)
	}
	url := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", c.repo.Scheme(), c.repo.RegistryStr(), c.repo.RepositoryStr(), d.Digest)
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	want := http.StatusOK
	if end >= 0 {
		want = http.StatusPartialContent
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, end))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: blob %s: %w", c.repo, d.Digest, err)
	}
	if resp.StatusCode == want {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && want == http.StatusPartialContent {
		return nil, fmt.Errorf("%s: blob %s: the registry ignores byte ranges", c.repo, d.Digest)
	}
	err = transport.CheckError(resp, want)
	return nil, registryError(c.repo.Digest(d.Digest.String()), err)
}

// rangedBlob is a Blob whose every ReadAt is one request.
type rangedBlob struct {
	ctx context.Context
	c   *rangeClient
	d   v1.Descriptor
}

// blob asks for the size where d does not tell it.
func (c *rangeClient) blob(ctx context.Context, d v1.Descriptor) (Blob, error) {
	if d.Size == 0 {
		resp, err := c.do(ctx, http.MethodHead, d, 0, -1)
		if err != nil {
			return nil, err
		}
		resp.Body.Close()
		if d.Size = resp.ContentLength; d.Size < 0 {
			return nil, fmt.Errorf("%s: blob %s: the registry does not tell its size", c.repo, d.Digest)
		}
	}
	return &rangedBlob{ctx, c, d}, nil
}

func (b *rangedBlob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= b.d.Size {
		return 0, io.EOF
	}
	short := error(nil)
	if int64(len(p)) > b.d.Size-off {
		p, short = p[:b.d.Size-off], io.EOF
	}
	if len(p) == 0 {
		return 0, short
	}
	resp, err := b.c.do(b.ctx, http.MethodGet, b.d, off, off+int64(len(p))-1)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.ReadFull(resp.Body, p)
	if err != nil {
		return n, fmt.Errorf("%s: blob %s: bytes %d to %d: %w", b.c.repo, b.d.Digest, off, off+int64(len(p)), err)
	}
	return n, short
}

func (b *rangedBlob) Size() int64  { return b.d.Size }
func (b *rangedBlob) Close() error { return nil }

// resumeAttempts is how often a broken download is taken up where it stopped,
// without a byte coming.
const resumeAttempts = 5

// resumingReader streams a blob and takes a broken connection up again.
type resumingReader struct {
	ctx      context.Context
	c        *rangeClient
	d        v1.Descriptor
	body     io.ReadCloser
	off      int64
	attempts int
}

func (r *resumingReader) reopen() error {
	end := int64(-1)
	if r.off > 0 {
		end = r.d.Size - 1 // not every registry knows ranges without an end
	}
	resp, err := r.c.do(r.ctx, http.MethodGet, r.d, r.off, end)
	if err != nil {
		return err
	}
	r.body = resp.Body
	return nil
}

func (r *resumingReader) Read(p []byte) (int, error) {
	for {
		n, err := r.body.Read(p)
		if r.off += int64(n); n > 0 {
			r.attempts = 0
		}
		if err == nil || n > 0 || err == io.EOF && r.off >= r.d.Size {
			if n > 0 {
				err = nil // a failure shows again at the next Read
			}
			return n, err
		}
		if r.attempts++; r.attempts > resumeAttempts || r.ctx.Err() != nil {
			return 0, fmt.Errorf("%s: blob %s: byte %d: %w", r.c.repo, r.d.Digest, r.off, err)
		}
		r.body.Close()
		if err := pause(r.ctx, time.Duration(r.attempts)*200*time.Millisecond); err != nil {
			return 0, err
		}
		if err := r.reopen(); err != nil {
			return 0, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (r *resumingReader) Close() error { return r.body.Close() }
