// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// certs is a transport for each host, with the certificates of its directory.
type certs struct {
	dir  string // like /etc/docker/certs.d; "": none
	base *http.Transport

	mu    sync.Mutex
	known map[string]http.RoundTripper // by host[:port]
}

// WithCerts returns a transport like base that besides the system's authorities
// trusts, and shows its client certificates to, each host as the directory
// dir/HOST[:PORT] says, the way Docker reads /etc/docker/certs.d: *.crt are
// authorities, X.cert and X.key a client certificate. Directories are read when
// their host is first spoken to. It may be used by many at once.
func WithCerts(dir string, base *http.Transport) http.RoundTripper {
	return newCerts(dir, base)
}

func newCerts(dir string, base *http.Transport) *certs {
	return &certs{dir: dir, base: base, known: map[string]http.RoundTripper{}}
}

func (c *certs) RoundTrip(req *http.Request) (*http.Response, error) {
	return c.host(req.URL.Host).RoundTrip(req)
}

func (c *certs) CloseIdleConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base.CloseIdleConnections()
	for _, t := range c.known {
		closeIdle(t)
	}
}

func closeIdle(t http.RoundTripper) {
	if t, ok := t.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// host returns the transport for host[:port].
func (c *certs) host(host string) http.RoundTripper {
	if c.dir == "" || strings.ContainsAny(host, `/\`) || strings.HasPrefix(host, ".") {
		return c.base
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.known[host]; t != nil {
		return t
	}
	var t http.RoundTripper = c.base
	cfg, err := hostTLS(filepath.Join(c.dir, host))
	if err != nil {
		return failing{&answerError{text: "certificates: " + err.Error(), verdict: permanent, err: err}}
	}
	if cfg != nil {
		own := c.base.Clone()
		own.TLSClientConfig = cfg
		t = own
	}
	if len(c.known) >= maxHosts {
		clear(c.known)
	}
	c.known[host] = t
	return t
}

// forget makes the certificates of host be read again.
func (c *certs) forget(host string) {
	c.mu.Lock()
	t := c.known[host]
	delete(c.known, host)
	c.mu.Unlock()
	if t != nil && t != c.base {
		closeIdle(t)
	}
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// hostTLS reads one directory of certs.d: *.crt are authorities trusted besides
// the system's, X.cert and X.key are a client certificate. It returns nil if
// there is no such directory.
func hostTLS(dir string) (*tls.Config, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			if cfg.RootCAs == nil {
				if cfg.RootCAs, err = x509.SystemCertPool(); err != nil {
					return nil, err
				}
			}
			pem, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			if !cfg.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s holds no certificate", path)
			}
		case ".cert":
			pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".cert")+".key")
			if err != nil {
				return nil, err
			}
			cfg.Certificates = append(cfg.Certificates, pair)
		}
	}
	return cfg, nil
}
