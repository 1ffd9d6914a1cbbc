// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// RegistryOptions are the options of [NewRegistry]; the zero value is the default.
type RegistryOptions struct {
	// Keychain knows the credentials; nil: [authn.DefaultKeychain]. It is asked
	// when a registry first wants credentials, and again when they are refused.
	Keychain authn.Keychain
	// PlainHTTP reports whether host[:port] may be talked to with plain http if
	// it does not speak https; nil: loopback hosts only.
	PlainHTTP func(host string) bool
	// Transport sends all requests; nil: one with proxies from the environment.
	// It must not follow redirects, and CertsDir is not used with it.
	Transport http.RoundTripper
	// CertsDir holds a directory per host[:port] with authorities (*.crt) and
	// client certificates (X.cert, X.key), like /etc/docker/certs.d; "": none.
	CertsDir string
	// MaxPerHost bounds the requests to one host at a time; 0: 16.
	MaxPerHost int
	// IdleTimeout is how long a connection may move no data; 0: 10 s. It is
	// doubled when a host stalls again, up to eight times.
	IdleTimeout time.Duration
	// LocationTTL is how long the target of a redirect is used without asking
	// the registry again; 0: 5 min.
	LocationTTL time.Duration
	// Logger is told of throttling and retries; nil: nobody is.
	Logger *slog.Logger
}

// Registry reads blobs from OCI registries. A process has one: it holds the
// tokens, connections and limits of all hosts.
type Registry struct {
	keychain    authn.Keychain
	plainHTTP   func(string) bool
	transport   http.RoundTripper
	certs       *certs // transport, if it is ours; else nil
	maxPerHost  int
	idle        time.Duration
	locationTTL time.Duration
	log         *slog.Logger
	stats       counters

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	flights sync.WaitGroup // running token refreshes

	mu        sync.Mutex
	closed    bool
	schemes   map[string]string      // by host
	limiters  map[string]*limiter    // by host
	auths     map[string]*authSource // by host/repository
	rangeless map[string]bool        // hosts that were warned about
}

type counters struct{ requests, failures, retries, throttled, tokens, bytes atomic.Int64 }

// Stats counts since the start of the process.
type Stats struct {
	Requests  int64          `json:"requests"`  // HTTP requests of all kinds
	Failures  int64          `json:"failures"`  // requests without an answer
	Retries   int64          `json:"retries"`   // accesses tried again
	Throttled int64          `json:"throttled"` // answers of 429
	Tokens    int64          `json:"tokens"`    // token requests
	Bytes     int64          `json:"bytes"`     // blob bytes received
	Limits    map[string]int `json:"limits"`    // requests allowed at a time, by host
}

// NewRegistry returns a Registry. It opens no connection and reads no file.
func NewRegistry(o RegistryOptions) *Registry {
	r := &Registry{
		keychain: o.Keychain, plainHTTP: o.PlainHTTP, transport: o.Transport,
		maxPerHost: o.MaxPerHost, idle: o.IdleTimeout, locationTTL: o.LocationTTL, log: o.Logger,
		schemes: map[string]string{}, limiters: map[string]*limiter{},
		auths: map[string]*authSource{}, rangeless: map[string]bool{},
	}
	if r.keychain == nil {
		r.keychain = authn.DefaultKeychain
	}
	if r.plainHTTP == nil {
		r.plainHTTP = loopbackHost
	}
	if r.maxPerHost <= 0 {
		r.maxPerHost = 16
	}
	if r.idle <= 0 {
		r.idle = 10 * time.Second
	}
	if r.locationTTL <= 0 {
		r.locationTTL = 5 * time.Minute
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.transport == nil {
		r.certs = newCerts(o.CertsDir, newTransport(r.maxPerHost))
		r.transport = r.certs
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close ends running token refreshes and closes idle connections. Reads that are
// running go on, later ones may fail.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.flights.Wait()
	if r.certs != nil {
		r.certs.CloseIdleConnections()
	}
}

// errClosed is returned for refreshes after Close.
var errClosed = &answerError{text: "the registry client is closed", verdict: permanent}

// startFlight counts one more token refresh, unless r is closed.
func (r *Registry) startFlight() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.flights.Add(1)
	}
	return !r.closed
}

// Stats returns the counters.
func (r *Registry) Stats() Stats {
	s := Stats{
		Requests: r.stats.requests.Load(), Failures: r.stats.failures.Load(), Retries: r.stats.retries.Load(),
		Throttled: r.stats.throttled.Load(), Tokens: r.stats.tokens.Load(), Bytes: r.stats.bytes.Load(),
		Limits: map[string]int{},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for host, l := range r.limiters {
		s.Limits[host] = l.current()
	}
	return s
}

// repositoryName is the grammar of the distribution specification; without it
// names could climb out of /v2/.
var repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

// Repository returns the blobs of "host[:port]/repository"; without a host that
// of Docker Hub. A bad name is reported when it is used.
func (r *Registry) Repository(repo string) *Repository {
	parsed, err := name.NewRepository(repo)
	if err == nil && !repositoryName.MatchString(parsed.RepositoryStr()) {
		err = fmt.Errorf("%q is no name of a repository", repo)
	}
	return &Repository{reg: r, repo: parsed, err: err}
}

// maxHosts bounds what redirects to ever new hosts can make us remember.
const maxHosts = 256

func (r *Registry) limiter(host string) *limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.limiters[host]
	if l == nil {
		if len(r.limiters) >= maxHosts {
			for h, old := range r.limiters {
				if old.idle() {
					delete(r.limiters, h)
				}
			}
		}
		l = newLimiter(r.maxPerHost)
		r.limiters[host] = l
	}
	return l
}

func (r *Registry) auth(repo name.Repository) *authSource {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.auths[repo.Name()]
	if s == nil {
		s = newAuthSource(r, repo)
		r.auths[repo.Name()] = s
	}
	return s
}

func (r *Registry) retried(err error) {
	r.stats.retries.Add(1)
	r.log.Debug("registry access is tried again", "err", err)
}
