// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"net"
	"net/http"
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

// forgetHost makes the certificates of host be read again, and its scheme be
// asked again.
func (r *Registry) forgetHost(host string) {
	if r.certs != nil {
		r.certs.forget(host)
	}
	r.mu.Lock()
	delete(r.schemes, host)
	r.mu.Unlock()
}
