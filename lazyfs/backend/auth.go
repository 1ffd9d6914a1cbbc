// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

const (
	// freshFor is how old a credential may be when it is used for the first
	// time, if its rejection is to mean that access is denied.
	freshFor = 500 * time.Millisecond
	// failureKept is how long a refusal by the token server is not asked again.
	failureKept = time.Second
	// flightTime bounds one refresh, with all its attempts.
	flightTime = 2 * time.Minute
)

// credential is a value for Authorization; "" is anonymous.
type credential struct {
	header   string
	initial  bool // nothing was asked of a token server or keychain for it
	born     time.Time
	expires  time.Time // zero: unknown
	accepted atomic.Bool
	secrets  []string // that an answer might quote
}

func (c *credential) expired(at time.Time) bool { return !c.expires.IsZero() && !at.Before(c.expires) }

// authSource holds the credential for one host and scope (a repository). However
// many readers find it missing, expired or rejected, one refresh runs for all.
type authSource struct {
	reg   *Registry
	repo  name.Repository
	scope string

	mu      sync.Mutex
	asked   *challenge // latest of the registry; nil: it asked for nothing yet
	origin  string     // scheme://host that sent it
	current *credential
	flight  *flight
	failure error
	failed  time.Time
}

// flight is one running refresh.
type flight struct {
	done    chan struct{} // closed when cred and err are set
	cred    *credential
	err     error
	waiters int // guarded by authSource.mu
	cancel  context.CancelFunc
}

func newAuthSource(r *Registry, repo name.Repository) *authSource {
	return &authSource{
		reg: r, repo: repo, scope: repo.Scope("pull"),
		current: &credential{initial: true},
	}
}

// get returns a credential that is not known to have expired.
func (s *authSource) get(ctx context.Context) (*credential, error) {
	s.mu.Lock()
	if !s.current.expired(time.Now()) {
		defer s.mu.Unlock()
		return s.current, nil
	}
	return s.refresh(ctx)
}

// rejected reports the answer 401 or 403 to a request that was sent with used.
// It returns whether another credential is there to try.
func (s *authSource) rejected(ctx context.Context, used *credential, sent time.Time, resp *http.Response) (bool, error) {
	s.mu.Lock()
	if c := findChallenge(resp.Header); c != nil {
		s.asked = c
		s.origin = resp.Request.URL.Scheme + "://" + resp.Request.URL.Host
	}
	if s.current != used {
		s.mu.Unlock()
		return true, nil
	}
	fresh := !used.initial && !used.accepted.Load() && !used.expired(sent) && sent.Sub(used.born) < freshFor
	if s.asked == nil || fresh {
		s.mu.Unlock()
		return false, nil
	}
	_, err := s.refresh(ctx)
	return err == nil, err
}

// refresh joins the running refresh or starts one. It is called with mu held and
// releases it.
func (s *authSource) refresh(ctx context.Context) (*credential, error) {
	for {
		if s.failure != nil && time.Since(s.failed) < failureKept {
			defer s.mu.Unlock()
			return nil, s.failure
		}
		f := s.flight
		if f == nil {
			if !s.reg.startFlight() {
				s.mu.Unlock()
				return nil, errClosed
			}
			fctx, cancel := context.WithTimeout(s.reg.ctx, flightTime)
			f = &flight{done: make(chan struct{}), cancel: cancel}
			s.flight = f
			go s.fly(fctx, f, s.asked, s.origin)
		}
		f.waiters++
		s.mu.Unlock()

		select {
		case <-f.done:
		case <-ctx.Done():
			s.mu.Lock()
			if f.waiters--; f.waiters == 0 {
				f.cancel()
			}
			s.mu.Unlock()
			return nil, ctx.Err()
		}
		if !errors.Is(f.err, context.Canceled) || s.reg.ctx.Err() != nil {
			return f.cred, f.err
		}
		s.mu.Lock() // all who wanted that refresh had left before we joined
	}
}

// fly does one refresh.
func (s *authSource) fly(ctx context.Context, f *flight, asked *challenge, origin string) {
	defer s.reg.flights.Done()
	defer f.cancel()
	var cred *credential
	err := retry(ctx, s.reg.retried, func(int) (progress bool, err error) {
		cred, err = s.obtain(ctx, asked, origin)
		return false, err
	})
	s.mu.Lock()
	f.cred, f.err = cred, err
	s.flight, s.failure = nil, nil
	switch {
	case err == nil:
		s.current = cred
	case ctx.Err() == nil:
		s.failure, s.failed = err, time.Now()
	}
	close(f.done)
	s.mu.Unlock()
}

// lookup asks the keychain. A keychain that fails is as one that knows nothing,
// since most images are public; the reason is told if access is then denied.
func (s *authSource) lookup(ctx context.Context) (authn.AuthConfig, error) {
	auth, err := authn.Resolve(ctx, s.reg.keychain, s.repo)
	if err == nil {
		var cfg *authn.AuthConfig
		if cfg, err = authn.Authorization(ctx, auth); err == nil {
			return *cfg, nil
		}
	}
	return authn.AuthConfig{}, err
}
