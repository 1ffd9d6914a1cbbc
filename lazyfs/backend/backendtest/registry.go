// SPDX-License-Identifier: Apache-2.0

package backendtest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Repo is the repository that every Registry of this package has.
const Repo = "some/image"

// Config says how a [Registry] behaves.
type Config struct {
	TLS bool
	// HTTP2 offers HTTP/2 with TLS.
	HTTP2 bool
	// User and Password must be known to read; "": anybody may.
	User, Password string
	// TokenTTL makes the registry want bearer tokens, which it refuses when they
	// are older. With User "" the token server gives them to anybody.
	TokenTTL time.Duration
	// HideTTL leaves the time to live out of the token server's answers.
	HideTTL bool
	// RefreshToken is accepted by the token server in an OAuth2 request.
	RefreshToken string
	// TokenFault is how the token server misbehaves, with one of the faults that
	// need no blob.
	TokenFault Fault
	// Redirect makes the registry redirect reads to another host, with a signed
	// URL that this host refuses when it is older.
	Redirect time.Duration
	// SameHost makes Redirect lead to another path of the registry itself, which
	// wants the same credentials.
	SameHost bool
	// NoHead refuses HEAD with 405.
	NoHead bool
	// Fault decides what goes wrong with the nth (from 1) read of a blob, at the
	// registry or, with Redirect, at the other host. nil: nothing.
	Fault func(n int, r *http.Request) Fault
}

// Request is what a server of a [Registry] saw.
type Request struct {
	Host   string // that was asked
	Method string
	Path   string
	Query  string
	Header http.Header
	Status int
	Time   time.Time
}

// Registry is an OCI registry with blobs in memory that misbehaves on demand.
type Registry struct {
	Host string // host:port
	URL  string // scheme://host:port
	CDN  string // host:port that Redirect leads to; "" without
	// Server is the registry itself, for its certificate.
	Server *httptest.Server

	c   Config
	cdn *httptest.Server

	mu      sync.Mutex
	blobs   map[string][]byte
	tokens  map[string]time.Time // to the end of their life
	seen    []Request
	reads   int
	running int // blob reads
	peak    int
	expired int // requests with a token whose life had ended
}

// NewRegistry starts a registry that ends with the test.
func NewRegistry(t testing.TB, c Config, contents ...[]byte) *Registry {
	r := &Registry{c: c, blobs: map[string][]byte{}, tokens: map[string]time.Time{}}
	for _, b := range contents {
		r.blobs[ID(b)] = b
	}
	start := func(h http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(r.record(h))
		s.Config.ErrorLog = quiet
		s.EnableHTTP2 = c.HTTP2
		if c.TLS {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
		t.Cleanup(s.CloseClientConnections)
		return s
	}
	r.Server = start(r.serve)
	r.URL = r.Server.URL
	r.Host = hostOf(r.URL)
	if c.Redirect > 0 {
		r.cdn = start(r.serveSigned)
		r.CDN = hostOf(r.cdn.URL)
	}
	return r
}

// Name returns host/repository.
func (r *Registry) Name() string { return r.Host + "/" + Repo }

// Change changes how the registry behaves from now on.
func (r *Registry) Change(f func(*Config)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.c)
}

func (r *Registry) conf() Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.c
}

// Seen returns the requests so far that match: a method or "", and a part of the path.
func (r *Registry) Seen(method, path string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Request
	for _, q := range r.seen {
		if (method == "" || q.Method == method) && strings.Contains(q.Path, path) {
			out = append(out, q)
		}
	}
	return out
}

// Peak returns the largest number of blob reads that ran at a time since the
// last call.
func (r *Registry) Peak() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peak
	r.peak = r.running
	return p
}

// Expired returns how many requests came with a token whose life had ended.
func (r *Registry) Expired() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.expired
}

// Revoke ends the life of all tokens.
func (r *Registry) Revoke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.tokens)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(s int)           { w.status = s; w.ResponseWriter.WriteHeader(s) }
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (r *Registry) record(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		sw := &statusWriter{w, 200}
		r.mu.Lock()
		i := len(r.seen)
		r.seen = append(r.seen, Request{q.Host, q.Method, q.URL.Path, q.URL.RawQuery, q.Header.Clone(), 0, time.Now()})
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			r.seen[i].Status = sw.status
			r.mu.Unlock()
		}()
		h(sw, q)
	})
}

func (r *Registry) serve(w http.ResponseWriter, q *http.Request) {
	c := r.conf()
	switch {
	case q.URL.Path == "/token":
		r.serveToken(w, q, c)
		return
	case !r.authorized(q, c):
		if c.TokenTTL > 0 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="fault registry, quoted",scope="repository:%s:pull"`, r.URL, Repo))
		} else {
			w.Header().Set("WWW-Authenticate", `Basic realm="fault registry"`)
		}
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required, got "+q.Header.Get("Authorization"))
		return
	case q.URL.Path == "/v2/":
		return
	case c.SameHost && strings.HasPrefix(q.URL.Path, "/data/"):
		r.serveSigned(w, q)
		return
	}
	id, ok := strings.CutPrefix(q.URL.Path, "/v2/"+Repo+"/blobs/sha256:")
	if !ok {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
		return
	}
	r.mu.Lock()
	content, ok := r.blobs[id]
	r.mu.Unlock()
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
	case q.Method == http.MethodHead && c.NoHead:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case c.Redirect > 0:
		exp := strconv.FormatInt(time.Now().Add(c.Redirect).UnixNano(), 10)
		base := r.cdn.URL
		if c.SameHost {
			base = ""
		}
		w.Header().Set("Location", base+"/data/"+id+"?Expires="+exp+"&Signature="+Signature)
		w.WriteHeader(http.StatusTemporaryRedirect)
	default:
		r.serveBlob(w, q, content)
	}
}

// Signature is the secret in the signed URLs.
const Signature = "s1gnatur3-0f-th3-cdn"

func (r *Registry) serveSigned(w http.ResponseWriter, q *http.Request) {
	exp, err := strconv.ParseInt(q.URL.Query().Get("Expires"), 10, 64)
	r.mu.Lock()
	content, ok := r.blobs[strings.TrimPrefix(q.URL.Path, "/data/")]
	r.mu.Unlock()
	switch {
	case err != nil || time.Now().UnixNano() > exp || q.URL.Query().Get("Signature") != Signature:
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message><Url>%s</Url></Error>", q.URL)
	case q.Method == http.MethodHead:
		w.WriteHeader(http.StatusForbidden) // signed for GET
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		r.serveBlob(w, q, content)
	}
}

func (r *Registry) serveBlob(w http.ResponseWriter, q *http.Request, content []byte) {
	if q.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		return
	}
	r.mu.Lock()
	r.reads++
	n := r.reads
	r.running++
	r.peak = max(r.peak, r.running)
	fault := r.c.Fault
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running--
		r.mu.Unlock()
	}()
	f := OK
	if fault != nil {
		f = fault(n, q)
	}
	f.serve(w, q, content)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		panic(err)
	}
	return u.Host
}
