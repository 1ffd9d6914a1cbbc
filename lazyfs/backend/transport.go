// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const userAgent = "lighter/1"

// newTransport is the transport of all hosts that have no certificates of their
// own. Proxies are taken from the environment.
func newTransport(maxPerHost int) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          4 * maxPerHost,
		MaxIdleConnsPerHost:   maxPerHost,
		IdleConnTimeout:       90 * time.Second,
		// A dead HTTP/2 connection would otherwise be used by all retries.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// transport returns the transport for host[:port].
func (r *Registry) transport(host string) http.RoundTripper {
	if r.certsDir == "" || r.custom || strings.ContainsAny(host, `/\`) || strings.HasPrefix(host, ".") {
		return r.base
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.transports[host]; t != nil {
		return t
	}
	var t http.RoundTripper = r.base
	cfg, err := hostTLS(filepath.Join(r.certsDir, host))
	if err != nil {
		return failing{&answerError{text: "certificates: " + err.Error(), verdict: permanent, err: err}}
	}
	if cfg != nil {
		own := r.base.(*http.Transport).Clone()
		own.TLSClientConfig = cfg
		t = own
	}
	if len(r.transports) >= maxHosts {
		clear(r.transports)
	}
	r.transports[host] = t
	return t
}

// forgetTransport makes the certificates of host be read again, and its scheme
// be asked again.
func (r *Registry) forgetTransport(host string) {
	r.mu.Lock()
	t := r.transports[host]
	delete(r.transports, host)
	delete(r.schemes, host)
	r.mu.Unlock()
	if own, ok := t.(*http.Transport); ok && own != r.base {
		own.CloseIdleConnections()
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
