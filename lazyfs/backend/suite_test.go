// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"lighter/lazyfs/backend"
	"lighter/lazyfs/backend/backendtest"
)

// keychain knows one user for all registries.
type keychain authn.AuthConfig

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(k)), nil
}

// client returns a Registry that ends with the test.
func client(t testing.TB, o backend.RegistryOptions) *backend.Registry {
	if o.Keychain == nil {
		o.Keychain = keychain{}
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 10 * time.Second
	}
	r := backend.NewRegistry(o)
	t.Cleanup(r.Close)
	return r
}

// trusting returns a transport that trusts the certificate of r.
func trusting(r *backendtest.Registry) http.RoundTripper {
	return r.Server.Client().Transport
}

func TestDir(t *testing.T) {
	t.Parallel()
	for _, layout := range []string{"", "sha256:", "blobs/sha256/"} {
		t.Run("named "+layout+"hex", func(t *testing.T) {
			backendtest.Suite(t, func(t *testing.T, contents ...[]byte) backend.Opener {
				return backend.NewDir(fill(t, layout, contents...))
			})
		})
	}
}

func fill(t testing.TB, layout string, contents ...[]byte) string {
	dir := t.TempDir()
	for _, b := range contents {
		path := filepath.Join(dir, layout+backendtest.ID(b))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	configs := map[string]backendtest.Config{
		"plain":            {},
		"tls":              {TLS: true},
		"http2":            {TLS: true, HTTP2: true, Redirect: time.Minute},
		"basic":            {User: "u", Password: "p4ssw0rd"},
		"bearer":           {User: "u", Password: "p4ssw0rd", TokenTTL: time.Minute},
		"bearer anonymous": {TokenTTL: time.Minute, TLS: true},
		"redirect":         {Redirect: time.Minute},
		"redirect bearer":  {Redirect: time.Minute, TokenTTL: time.Minute, TLS: true},
		"redirect itself":  {Redirect: time.Minute, SameHost: true, User: "u", Password: "p4ssw0rd", TokenTTL: time.Minute},
		"no head":          {NoHead: true},
		"no ranges":        {Fault: always(backendtest.Whole)},
		"chunked":          {Fault: always(backendtest.Chunked)},
		"short ranges":     {Fault: always(backendtest.ShortRange)},
	}
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backendtest.Suite(t, func(t *testing.T, contents ...[]byte) backend.Opener {
				r := backendtest.NewRegistry(t, c, contents...)
				o := backend.RegistryOptions{Keychain: keychain{Username: c.User, Password: c.Password}}
				if c.TLS {
					o.Transport = trusting(r)
				}
				return client(t, o).Repository(r.Name())
			})
		})
	}
}

func always(f backendtest.Fault) func(int, *http.Request) backendtest.Fault {
	return func(int, *http.Request) backendtest.Fault { return f }
}

func TestChain(t *testing.T) {
	t.Parallel()
	t.Run("absent then present", func(t *testing.T) {
		backendtest.Suite(t, func(t *testing.T, contents ...[]byte) backend.Opener {
			return backend.Chain(backend.NewDir(t.TempDir()), backend.NewDir(fill(t, "", contents...)), backend.NewDir("/nonexistent"))
		})
	})
	t.Run("mirror that breaks", func(t *testing.T) {
		backendtest.Suite(t, func(t *testing.T, contents ...[]byte) backend.Opener {
			bad := backendtest.NewRegistry(t, backendtest.Config{Fault: always(backendtest.WrongRange)}, contents...)
			return backend.Chain(client(t, backend.RegistryOptions{}).Repository(bad.Name()), backend.NewDir(fill(t, "", contents...)))
		})
	})
}
