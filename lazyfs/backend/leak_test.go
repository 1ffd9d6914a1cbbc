// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

// lockedBuffer collects a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestNoSecretLeaves: with every fault at the registry and at the host that it
// redirects to, no secret is in an error or the log, and what was sent to the
// other host held neither credentials nor a token.
func TestNoSecretLeaves(t *testing.T) {
	t.Parallel()
	const password = "sw0rdfish-pass"
	content := Random(50_000, 20)
	for f := OK; f <= Slow; f++ {
		for _, redirect := range []time.Duration{0, time.Hour} {
			if f == Stall || f == StallEarly || f == Trickle {
				continue // nothing is said in these, and they take their time
			}
			log := &lockedBuffer{}
			r := NewRegistry(t, Config{User: "u", Password: password, TokenTTL: time.Hour, Redirect: redirect}, content)
			c := client(t, backend.RegistryOptions{
				Keychain: keychain{Username: "u", Password: password},
				Logger:   slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			})
			b := Open(t, Context(t, time.Minute), c.Repository(r.Name()), content)
			r.Change(func(c *Config) { c.Fault = always(f) })
			_, err := b.ReadAt(Context(t, 400*time.Millisecond), make([]byte, 10_000), 3)
			texts := log.String()
			for ; err != nil; err = errors.Unwrap(err) {
				texts += "\n" + err.Error()
			}
			for _, secret := range []string{password, Signature, TokenMark, "Signature=", "Expires=", "dTpzdzByZGZpc2"} {
				if strings.Contains(texts, secret) {
					t.Errorf("fault %d: %q in:\n%s", f, secret, texts)
				}
			}
			for _, q := range r.Seen("", "/data/") {
				if q.Header.Get("Authorization") != "" || q.Header.Get("Cookie") != "" || q.Header.Get("Referer") != "" {
					t.Errorf("fault %d: sent to the redirected host: %v", f, q.Header)
				}
			}
			if n := len(r.Seen("", "/data/")); redirect > 0 && n == 0 {
				t.Errorf("fault %d: the redirected host was not asked", f)
			}
		}
	}
}

// TestIdentityEncoding: no request lets the server compress.
func TestIdentityEncoding(t *testing.T) {
	t.Parallel()
	content := Random(5000, 21)
	r := NewRegistry(t, Config{TokenTTL: time.Hour, Redirect: time.Hour}, content)
	ctx := Context(t, time.Minute)
	Read(t, ctx, Open(t, ctx, client(t, backend.RegistryOptions{}).Repository(r.Name()), content), content, 0, 5000)
	for _, q := range r.Seen("", "") {
		if q.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s %s: Accept-Encoding %q", q.Method, q.Path, q.Header.Get("Accept-Encoding"))
		}
	}
}

// TestLocationRemembered: the registry is asked once for where a blob is, and
// again when that location has expired.
func TestLocationRemembered(t *testing.T) {
	t.Parallel()
	content := Random(100_000, 22)
	for name, same := range map[string]bool{"other host": false, "same host": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			locationRemembered(t, Config{Redirect: 1500 * time.Millisecond, SameHost: same}, content)
		})
	}
	r := NewRegistry(t, Config{TokenTTL: time.Second, Redirect: time.Hour, SameHost: true}, content)
	ctx := Context(t, time.Minute)
	b := Open(t, ctx, client(t, backend.RegistryOptions{}).Repository(r.Name()), content)
	storm(t, b, content, 2500*time.Millisecond) // tokens expire while locations do not
	if n := len(r.Seen("", "/token")); n > 5 {
		t.Errorf("%d token requests", n)
	}
}

func locationRemembered(t *testing.T, c Config, content []byte) {
	r := NewRegistry(t, c, content)
	ctx := Context(t, time.Minute)
	b := Open(t, ctx, client(t, backend.RegistryOptions{}).Repository(r.Name()), content)
	end := time.Now().Add(4 * time.Second)
	reads := 0
	for ; time.Now().Before(end); reads++ {
		Read(t, ctx, b, content, reads, 1000)
		time.Sleep(5 * time.Millisecond)
	}
	asked := len(r.Seen("GET", "/blobs/"))
	if asked < 2 || asked > 6 || reads < 5 {
		t.Errorf("the registry was asked %d times for %d reads in 4 s with locations that live 1.5 s", asked, reads)
	}
	other := client(t, backend.RegistryOptions{LocationTTL: time.Nanosecond})
	b = Open(t, ctx, other.Repository(r.Name()), content)
	before := len(r.Seen("GET", "/blobs/"))
	for i := range 5 {
		Read(t, ctx, b, content, i, 10)
	}
	if n := len(r.Seen("GET", "/blobs/")) - before; n != 5 {
		t.Errorf("without memory the registry was asked %d times for 5 reads", n)
	}
}

// TestRedirectsRefused: a redirect may not lower https to http, leave http and
// https, go round, or lead to addresses of this machine's link.
func TestRedirectsRefused(t *testing.T) {
	t.Parallel()
	content := Random(100, 23)
	plain := NewRegistry(t, Config{}, content)
	for name, tt := range map[string]struct {
		location string
		tls      bool
		want     string
	}{
		"https to http":     {plain.URL + "/v2/" + Repo + "/blobs/sha256:" + ID(content) + "?s=" + Signature, true, "from https to plain http"},
		"http elsewhere":    {"http://example.com/x?s=" + Signature, false, "plain http, which is only used"},
		"file":              {"file:///etc/passwd", false, "no valid location"},
		"ftp":               {"ftp://example.com/x", false, "unknown scheme"},
		"metadata service":  {"https://169.254.169.254/latest/meta-data", false, "link-local"},
		"link-local IPv6":   {"https://[fe80::1]/x", false, "link-local"},
		"unspecified":       {"https://0.0.0.0/x", false, "link-local"},
		"to itself":         {"", false, "more than 5 redirects"},
		"bad location":      {"https://user:" + Signature + "@%zz/", false, "no valid location"},
		"no host":           {"https:///x", false, "no valid location"},
		"in a circle by //": {"//", false, "more than 5 redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if q.URL.Path == "/v2/" {
					return
				}
				loc := tt.location
				if loc == "" {
					loc = q.URL.Path
				}
				w.Header()["Location"] = []string{loc}
				w.WriteHeader(http.StatusTemporaryRedirect)
			})
			s := httptest.NewServer(h)
			var o backend.RegistryOptions
			if tt.tls {
				s.Close()
				s = httptest.NewTLSServer(h)
				o.Transport = s.Client().Transport
			}
			t.Cleanup(s.Close)
			u, err := url.Parse(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			_, err = client(t, o).Repository(u.Host+"/"+Repo).Open(Context(t, time.Minute), ID(content))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), Signature) {
				t.Errorf("error: %v, want %q", err, tt.want)
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Error("took the whole time")
			}
		})
	}
	if n := len(plain.Seen("", "")); n != 0 {
		t.Errorf("%d requests reached the plain host", n)
	}
}

// TestRealmRefused: a password does not go to a token server over plain http that
// a registry with https names, nor to one that redirects elsewhere.
func TestRealmRefused(t *testing.T) {
	t.Parallel()
	thief := NewRegistry(t, Config{})
	var realm string
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/redirect" {
			http.Redirect(w, q, "https://"+thief.Host+"/token", http.StatusFound)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	u, _ := url.Parse(s.URL)
	for _, realm = range []string{thief.URL + "/token", "http://example.com/token", "https://169.254.169.254/token", "ftp://x/y", "::", "/token", s.URL + "/redirect"} {
		c := client(t, backend.RegistryOptions{Transport: s.Client().Transport, Keychain: keychain{Username: "u", Password: "sw0rdfish-pass"}})
		_, err := c.Repository(u.Host+"/"+Repo).Open(Context(t, time.Minute), ID(nil))
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("realm %q: %v", realm, err)
		}
		t.Log(err)
	}
	if n := len(thief.Seen("", "")); n != 0 {
		t.Errorf("%d requests reached the thief", n)
	}
}
