// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// Repository is the blobs of one repository of a registry.
type Repository struct {
	reg  *Registry
	repo name.Repository
	err  error // the name is bad
}

// maxAuthTries bounds the credentials that one access tries.
const maxAuthTries = 3

// Open asks the registry once for the blob and its size. The error wraps
// fs.ErrNotExist if the registry does not have it, fs.ErrPermission if it refuses
// to say; other errors come when ctx ends.
func (p *Repository) Open(ctx context.Context, blobID string) (Blob, error) {
	hex, err := parseID(blobID)
	if err == nil {
		err = p.err
	}
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	b := &registryBlob{p: p, hex: hex}
	err = retry(ctx, p.reg.retried, func(stalls int) (bool, error) {
		var err error
		b.size, err = b.askSize(ctx, stalls)
		return false, err
	})
	if err != nil {
		return nil, &Error{Op: "open", Repo: p.repo.Name(), Blob: hex, Err: err}
	}
	return b, nil
}

// ask sends a request for the blob to the registry, or to where the registry
// last sent us for it, with what authorization and redirects need. The caller
// closes the body of the answer, whose status is that of success or of an error
// that it has to judge.
func (b *registryBlob) ask(ctx context.Context, method, rng string, stalls int) (*http.Response, error) {
	reg := b.p.reg
	if method == http.MethodGet {
		if at := b.remembered(); at != nil {
			resp, err := b.askAt(ctx, at, rng, stalls)
			if err != nil {
				b.forget(at)
				return nil, err
			}
			if resp.StatusCode < 400 && !isRedirect(resp) || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable ||
				resp.StatusCode == http.StatusTooManyRequests {
				return resp, nil
			}
			resp.Body.Close() // expired, most likely: the registry knows a new one
			b.forget(at)
		}
	}
	host := b.p.repo.RegistryStr()
	scheme, err := reg.scheme(ctx, host)
	if err != nil {
		return nil, err
	}
	origin := &url.URL{Scheme: scheme, Host: host, Path: "/v2/" + b.p.repo.RepositoryStr() + "/blobs/sha256:" + b.hex}
	auth := reg.auth(b.p.repo)
	u, hop := origin, 0
	for tries := 0; ; {
		header := rangeHeader(rng)
		ours := u.Scheme == origin.Scheme && u.Host == origin.Host
		var cred *credential
		if ours {
			if cred, err = auth.get(ctx); err != nil {
				return nil, err
			}
			if cred.header != "" {
				header.Set("Authorization", cred.header)
			}
		}
		sent := time.Now()
		resp, err := reg.roundTrip(ctx, request{method: method, url: u, header: header, stalls: stalls})
		if err != nil {
			return nil, err
		}
		switch code := resp.StatusCode; {
		case ours && (code == http.StatusUnauthorized || code == http.StatusForbidden):
			if tries++; tries > maxAuthTries {
				return nil, statusError(resp, true, cred.secrets...)
			}
			denial := statusError(resp, true, cred.secrets...)
			again, err := auth.rejected(ctx, cred, sent, resp)
			if err != nil {
				return nil, err
			}
			if !again {
				return nil, denial
			}
			u, hop = origin, 0
		case isRedirect(resp):
			if ours {
				cred.accepted.Store(true)
			}
			if method == http.MethodHead {
				return resp, nil
			}
			resp.Body.Close()
			if u, err = reg.follow(resp, hop); err != nil {
				return nil, err
			}
			hop++
		default:
			if ours && code < 400 {
				cred.accepted.Store(true)
			}
			switch {
			case code >= 400 && code != http.StatusRequestedRangeNotSatisfiable:
				if !ours {
					return nil, statusError(resp, false)
				}
				return nil, statusError(resp, true, cred.secrets...)
			case hop > 0 && code < 300:
				b.remember(&location{u, ours})
			}
			return resp, nil
		}
	}
}

// askAt sends a GET to where the registry redirected to before.
func (b *registryBlob) askAt(ctx context.Context, at *location, rng string, stalls int) (*http.Response, error) {
	header := rangeHeader(rng)
	if at.ours {
		cred, err := b.p.reg.auth(b.p.repo).get(ctx)
		if err != nil {
			return nil, err
		}
		if cred.header != "" {
			header.Set("Authorization", cred.header)
		}
	}
	return b.p.reg.roundTrip(ctx, request{method: http.MethodGet, url: at.url, header: header, stalls: stalls})
}

func rangeHeader(rng string) http.Header {
	h := http.Header{}
	if rng != "" {
		h.Set("Range", rng)
	}
	return h
}

// askSize finds the size with HEAD; where that does not tell (redirects are often
// signed for one method), with a GET of the first byte.
func (b *registryBlob) askSize(ctx context.Context, stalls int) (int64, error) {
	resp, err := b.ask(ctx, http.MethodHead, "", stalls)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 && plainEncoding(resp) {
			return resp.ContentLength, nil
		}
	} else if judge(err) == transient || ctx.Err() != nil {
		return 0, err
	}
	// An answer to HEAD has no body that could say why.
	resp, err = b.ask(ctx, http.MethodGet, "bytes=0-0", stalls)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	host := resp.Request.URL.Host
	if !plainEncoding(resp) {
		return 0, encodingError(resp)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 {
			return resp.ContentLength, nil
		}
		return 0, protocolError(host, "no size of the blob")
	case http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		r, err := parseContentRange(resp.Header.Get("Content-Range"))
		switch {
		case err != nil:
			return 0, protocolError(host, "%v", err)
		case r.total < 0:
			return 0, protocolError(host, "no size of the blob")
		case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && r.total != 0:
			return 0, protocolError(host, "the first byte of %d is out of range", r.total)
		}
		return r.total, nil
	}
	return 0, statusError(resp, false)
}

var _ Opener = (*Repository)(nil)
