// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

// TestNoFallToHTTP: a host that is not allowed plain http is never sent any, also
// if it speaks nothing else; one that is named is.
func TestNoFallToHTTP(t *testing.T) {
	t.Parallel()
	content := Random(1000, 30)
	r := NewRegistry(t, Config{User: "u", Password: "p"}, content)
	k := keychain{Username: "u", Password: "p"}
	never := client(t, backend.RegistryOptions{Keychain: k, PlainHTTP: func(string) bool { return false }})
	start := time.Now()
	_, err := never.Repository(r.Name()).Open(Context(t, time.Minute), ID(content))
	if err == nil || !strings.Contains(err.Error(), "speaks plain http") || time.Since(start) > 20*time.Second {
		t.Fatalf("error %v after %v", err, time.Since(start))
	}
	if n := len(r.Seen("", "")); n != 0 {
		t.Fatalf("%d plain requests were sent", n)
	}
	var asked []string
	named := client(t, backend.RegistryOptions{Keychain: k, PlainHTTP: func(host string) bool {
		asked = append(asked, host)
		return host == r.Host
	}})
	Open(t, Context(t, time.Minute), named.Repository(r.Name()), content)
	if len(asked) == 0 || asked[0] != r.Host {
		t.Fatalf("asked about %q", asked)
	}
}

// TestTLSOnLoopback: plain http being allowed does not keep https from being used,
// and a certificate nobody vouches for is an error, not a reason for plain http.
func TestTLSOnLoopback(t *testing.T) {
	t.Parallel()
	content := Random(1000, 31)
	r := NewRegistry(t, Config{TLS: true}, content)
	_, err := client(t, backend.RegistryOptions{}).Repository(r.Name()).Open(Context(t, time.Minute), ID(content))
	if err == nil || !strings.Contains(err.Error(), "certificate") || errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("error %v", err)
	}
}

// TestCertsDir: authorities and client certificates per host, read again when
// the connection failed.
func TestCertsDir(t *testing.T) {
	t.Parallel()
	content := Random(1000, 32)
	r := NewRegistry(t, Config{TLS: true}, content)
	dir := t.TempDir()
	c := client(t, backend.RegistryOptions{CertsDir: dir})
	o := c.Repository(r.Name())
	ctx := Context(t, time.Minute)
	if _, err := o.Open(ctx, ID(content)); err == nil {
		t.Fatal("opened without the authority")
	}
	host := filepath.Join(dir, r.Host)
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "ca.crt"), []byte("no certificate"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Repository(r.Host+"/other").Open(Context(t, 500*time.Millisecond), ID(content)); err == nil {
		t.Fatal("opened with a broken authority")
	}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(host, "ca.crt"), authority, 0o644); err != nil {
		t.Fatal(err)
	}
	Read(t, ctx, Open(t, ctx, o, content), content, 0, 1000)
}

// TestClientCertificate: the pair in CertsDir is presented.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	content := Random(1000, 33)
	r := NewRegistry(t, Config{TLS: true}, content)
	r.Server.TLS.ClientAuth = tls.RequireAnyClientCert
	dir := t.TempDir()
	host := filepath.Join(dir, r.Host)
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	cert, key := pair(t)
	for name, content := range map[string][]byte{
		"ca.crt":      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Server.Certificate().Raw}),
		"client.cert": cert, "client.key": key,
	} {
		if err := os.WriteFile(filepath.Join(host, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx := Context(t, time.Minute)
	Open(t, ctx, client(t, backend.RegistryOptions{CertsDir: dir}).Repository(r.Name()), content)
	os.Remove(filepath.Join(host, "client.cert"))
	if _, err := client(t, backend.RegistryOptions{CertsDir: dir}).Repository(r.Name()).Open(Context(t, time.Second), ID(content)); err == nil {
		t.Fatal("opened without the client certificate")
	}
}

// TestThrottle: 429 halves the number of requests that run at a time, all reads
// succeed, and the number grows again.
func TestThrottle(t *testing.T) {
	t.Parallel()
	content := Random(100_000, 34)
	r := NewRegistry(t, Config{Fault: always(Slow)}, content)
	c := client(t, backend.RegistryOptions{MaxPerHost: 16})
	b := Open(t, Context(t, time.Minute), c.Repository(r.Name()), content)
	round := func(reads int) (peak int) {
		r.Peak()
		ctx := Context(t, time.Minute)
		var wg sync.WaitGroup
		for i := range reads {
			wg.Go(func() {
				p := make([]byte, 500)
				if _, err := b.ReadAt(ctx, p, int64(i*100)); err != nil || !bytes.Equal(p, content[i*100:i*100+500]) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return r.Peak()
	}
	if peak := round(64); peak < 12 || peak > 16 {
		t.Errorf("%d at a time at first, want about 16", peak)
	}
	left := 1
	r.Change(func(c *Config) {
		c.Fault = func(int, *http.Request) Fault {
			if left > 0 {
				left--
				return TooManyWait
			}
			return Slow
		}
	})
	start := time.Now()
	round(1)
	if d := time.Since(start); d < time.Second {
		t.Errorf("Retry-After: 1, and the read took %v", d)
	}
	if limit := c.Stats().Limits[r.Host]; limit != 8 {
		t.Errorf("limit %d after one 429, want 8", limit)
	}
	r.Peak()
	if peak := round(16); peak < 2 || peak > 10 {
		t.Errorf("%d at a time after one 429, want at most about 8", peak)
	}
	for range 6 {
		round(48)
	}
	if limit := c.Stats().Limits[r.Host]; limit != 16 {
		t.Errorf("limit %d after many successes, want 16", limit)
	}
	if s := c.Stats(); s.Throttled != 1 || s.Bytes == 0 || s.Retries == 0 {
		t.Errorf("stats %+v", s)
	}
}
