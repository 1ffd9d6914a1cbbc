// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

func parseRange(h string, first, last *int) bool {
	n, _ := fmt.Sscanf(h, "bytes=%d-%d", first, last)
	return n == 2
}

// storm reads with 64 readers for d.
func storm(t *testing.T, b Blob, content []byte, d time.Duration) (reads int64) {
	t.Helper()
	ctx := Context(t, d+time.Minute)
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	var n atomic.Int64
	for w := range 64 {
		wg.Go(func() {
			p := make([]byte, 100)
			for i := 0; time.Now().Before(end); i++ {
				off := (w*1000 + i*37) % (len(content) - 100)
				got, err := b.ReadAt(ctx, p, int64(off))
				if err != nil || !bytes.Equal(p[:got], content[off:off+100]) {
					t.Errorf("read at %d: %v", off, err)
					return
				}
				n.Add(1)
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return n.Load()
}

// TestTokenStorm: 64 readers and tokens that live for 1 s: at most one refresh
// per expiry, and no read fails; whether the server tells the time to live or not.
func TestTokenStorm(t *testing.T) {
	t.Parallel()
	content := Random(200_000, 9)
	for name, hide := range map[string]bool{"ttl told": false, "ttl not told": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, Config{User: "u", Password: "p", TokenTTL: time.Second, HideTTL: hide}, content)
			o := backend.RegistryOptions{Keychain: keychain{Username: "u", Password: "p"}, MaxPerHost: 64}
			c := client(t, o)
			start := time.Now()
			b := Open(t, Context(t, time.Minute), c.Repository(r.Name()), content)
			reads := storm(t, b, content, 4*time.Second)
			took := time.Since(start)
			refreshes := len(r.Seen("", "/token"))
			t.Logf("%d reads, %d refreshes in %v, %d requests with an expired token", reads, refreshes, took, r.Expired())
			if most := int(took/time.Second) + 1; refreshes > most || refreshes < 3 {
				t.Errorf("%d refreshes, at most %d expected", refreshes, most)
			}
			if reads < 300 {
				t.Errorf("only %d reads", reads)
			}
			if got := c.Stats().Tokens; got != int64(refreshes) {
				t.Errorf("%d token requests counted, %d seen", got, refreshes)
			}
		})
	}
}

// TestTokenCold: many first readers cause one token request.
func TestTokenCold(t *testing.T) {
	t.Parallel()
	content := Random(1000, 10)
	r := NewRegistry(t, Config{TokenTTL: time.Minute}, content)
	c := client(t, backend.RegistryOptions{})
	ctx := Context(t, time.Minute)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := c.Repository(r.Name()).Open(ctx, ID(content)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(r.Seen("", "/token")); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// TestTokenRevoked: a token that ends before its time is replaced, once.
func TestTokenRevoked(t *testing.T) {
	t.Parallel()
	content := Random(200_000, 11)
	r := NewRegistry(t, Config{TokenTTL: time.Hour}, content)
	b := Open(t, Context(t, time.Minute), client(t, backend.RegistryOptions{}).Repository(r.Name()), content)
	time.AfterFunc(300*time.Millisecond, r.Revoke)
	storm(t, b, content, 600*time.Millisecond)
	if n := len(r.Seen("", "/token")); n != 2 {
		t.Errorf("%d token requests", n)
	}
}

// changing is a keychain whose answer changes, and that counts the questions.
type changing struct {
	mu    sync.Mutex
	cfg   authn.AuthConfig
	err   error
	asked int
}

func (k *changing) Resolve(authn.Resource) (authn.Authenticator, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if k.err != nil {
		return nil, k.err
	}
	return authn.FromConfig(k.cfg), nil
}

func (k *changing) set(cfg authn.AuthConfig, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cfg, k.err = cfg, err
}

// TestCredentialsChange: credentials may be absent or wrong at first, and are
// looked up again when they were refused; without a need they are not looked up.
func TestCredentialsChange(t *testing.T) {
	t.Parallel()
	content := Random(10_000, 12)
	for name, ttl := range map[string]time.Duration{"basic": 0, "bearer": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, Config{User: "u", Password: "right", TokenTTL: ttl}, content)
			k := &changing{err: errors.New("no helper eyJzZWNyZXQiOiJhYmMifQ")}
			o := client(t, backend.RegistryOptions{Keychain: k}).Repository(r.Name())
			if k.asked != 0 {
				t.Fatal("keychain asked before any use")
			}
			ctx := Context(t, time.Minute)
			_, err := o.Open(ctx, ID(content))
			if !errors.Is(err, fs.ErrPermission) {
				t.Fatalf("without credentials: %v", err)
			}
			if !bytes.Contains([]byte(err.Error()), []byte("no helper")) || bytes.Contains([]byte(err.Error()), []byte("eyJ")) {
				t.Fatalf("text: %v", err)
			}
			k.set(authn.AuthConfig{Username: "u", Password: "wr0ng-s3cret"}, nil)
			time.Sleep(1100 * time.Millisecond)
			_, err = o.Open(ctx, ID(content))
			if !errors.Is(err, fs.ErrPermission) || bytes.Contains([]byte(err.Error()), []byte("wr0ng")) {
				t.Fatalf("with a wrong password: %v", err)
			}
			k.set(authn.AuthConfig{Username: "u", Password: "right"}, nil)
			time.Sleep(1100 * time.Millisecond)
			b := Open(t, ctx, o, content)
			Read(t, ctx, b, content, 0, 1000)
			asked := k.asked
			for i := range 20 {
				Read(t, ctx, b, content, i, 1000)
			}
			if k.asked != asked {
				t.Fatalf("keychain asked %d times for 20 reads", k.asked-asked)
			}
			// The password changes while blobs are open.
			r.Change(func(c *Config) { c.Password = "newer" })
			r.Revoke()
			k.set(authn.AuthConfig{Username: "u", Password: "newer"}, nil)
			Read(t, ctx, b, content, 5, 1000)
		})
	}
}

// TestDeniedIsBounded: readers that are denied do not storm the token server.
func TestDeniedIsBounded(t *testing.T) {
	t.Parallel()
	content := Random(1000, 13)
	r := NewRegistry(t, Config{User: "u", Password: "right", TokenTTL: time.Hour}, content)
	o := client(t, backend.RegistryOptions{Keychain: keychain{Username: "u", Password: "wrong"}}).Repository(r.Name())
	ctx := Context(t, time.Minute)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := o.Open(ctx, ID(content)); !errors.Is(err, fs.ErrPermission) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(r.Seen("", "/token")); n > 3 {
		t.Errorf("%d token requests", n)
	}
}

// TestRefreshToken: an identity token goes to the token server with OAuth2, a
// registry token goes to the registry as it is.
func TestRefreshToken(t *testing.T) {
	t.Parallel()
	content := Random(1000, 14)
	r := NewRegistry(t, Config{User: "u", Password: "p", TokenTTL: time.Hour, RefreshToken: "r3fr3sh"}, content)
	ctx := Context(t, time.Minute)
	Open(t, ctx, client(t, backend.RegistryOptions{Keychain: keychain{IdentityToken: "r3fr3sh"}}).Repository(r.Name()), content)
	seen := r.Seen("", "/token")
	if len(seen) != 1 || seen[0].Method != "POST" || seen[0].Query != "" {
		t.Fatalf("requests: %+v", seen)
	}
	_, err := client(t, backend.RegistryOptions{Keychain: keychain{IdentityToken: "wr0ng-one"}}).Repository(r.Name()).Open(ctx, ID(content))
	if !errors.Is(err, fs.ErrPermission) || bytes.Contains([]byte(err.Error()), []byte("wr0ng")) {
		t.Fatal(err)
	}
	token := ""
	for _, q := range r.Seen("HEAD", "/blobs/") {
		if a := q.Header.Get("Authorization"); a != "" {
			token = a[len("Bearer "):]
		}
	}
	Open(t, ctx, client(t, backend.RegistryOptions{Keychain: keychain{RegistryToken: token}}).Repository(r.Name()), content)
	if n := len(r.Seen("", "/token")); n != 2 {
		t.Fatalf("%d token requests", n)
	}
}

// TestTokenServerAway: readers wait for a token server that is away, with one row
// of attempts for all, and each leaves with its own context.
func TestTokenServerAway(t *testing.T) {
	t.Parallel()
	content := Random(10_000, 15)
	for name, f := range map[string]Fault{"resets": ResetEarly, "errors": Error500, "stalls": StallEarly, "429": TooMany} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, Config{TokenTTL: time.Hour}, content)
			c := client(t, backend.RegistryOptions{IdleTimeout: time.Second})
			b := Open(t, Context(t, time.Minute), c.Repository(r.Name()), content)
			r.Revoke()
			r.Change(func(c *Config) { c.TokenFault = f })
			before := len(r.Seen("", "/token"))
			time.AfterFunc(2*time.Second, func() { r.Change(func(c *Config) { c.TokenFault = OK }) })
			var wg sync.WaitGroup
			for range 30 {
				wg.Go(func() { Read(t, Context(t, time.Minute), b, content, 5, 100) })
				wg.Go(func() {
					_, err := b.ReadAt(Context(t, 500*time.Millisecond), make([]byte, 10), 0)
					if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fs.ErrPermission) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if n := len(r.Seen("", "/token")) - before; n > 40 { // the transport itself tries idle connections
				t.Errorf("%d token requests in 2 s", n)
			}
		})
	}
}

// TestTokenWaitersLeave: a refresh that nobody waits for ends, and the next
// reader starts another.
func TestTokenWaitersLeave(t *testing.T) {
	t.Parallel()
	content := Random(1000, 16)
	r := NewRegistry(t, Config{TokenTTL: time.Hour, TokenFault: StallEarly}, content)
	c := client(t, backend.RegistryOptions{IdleTimeout: time.Hour})
	o := c.Repository(r.Name())
	for range 3 {
		if _, err := o.Open(Context(t, 100*time.Millisecond), ID(content)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	r.Change(func(c *Config) { c.TokenFault = OK })
	Open(t, Context(t, time.Minute), o, content)

	r.Revoke()
	r.Change(func(c *Config) { c.TokenFault = StallEarly })
	failed := make(chan error, 1)
	go func() {
		_, err := o.Open(Context(t, time.Minute), ID(content))
		failed <- err
	}()
	time.Sleep(200 * time.Millisecond)
	c.Close() // ends the running refresh
	if err := <-failed; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("after Close: %v", err)
	}
}

// TestTokenServerAnswers: answers without a usable token are errors that say so.
func TestTokenServerAnswers(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"":                          "not in JSON",
		"{}":                        "no token in",
		`{"token":"a\nb: c"}`:       "characters that no header may have",
		`{"token":5}`:               "not in JSON",
		`{"access_token":"\u00e9"}`: "characters that no header may have",
	} {
		var s *httptest.Server
		s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/token" {
				io.WriteString(w, answer)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		t.Cleanup(s.Close)
		_, err := client(t, backend.RegistryOptions{}).Repository(strings.TrimPrefix(s.URL, "http://")+"/a/b").Open(Context(t, time.Minute), ID(nil))
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}
