// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

const maxHops = 5

// loopbackHost reports whether host[:port] is this machine by name or address.
func loopbackHost(host string) bool {
	h := hostname(host)
	if h == "localhost" || strings.HasSuffix(h, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(h)
	return err == nil && a.Unmap().IsLoopback()
}

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// scheme returns the scheme to talk to a registry with. Plain http is taken only
// if it is allowed for that host and the host does not speak https.
func (r *Registry) scheme(ctx context.Context, host string) (string, error) {
	if !r.plainHTTP(host) {
		return "https", nil
	}
	r.mu.Lock()
	known := r.schemes[host]
	r.mu.Unlock()
	if known != "" {
		return known, nil
	}
	scheme := "https"
	resp, err := r.roundTrip(ctx, request{method: http.MethodGet, url: &url.URL{Scheme: "https", Host: host, Path: "/v2/"}})
	switch {
	case err == nil:
		resp.Body.Close()
	case isPlain(err, host):
		scheme = "http"
	default:
		return "", err
	}
	r.mu.Lock()
	r.schemes[host] = scheme
	r.mu.Unlock()
	return scheme, nil
}

// follow returns where a redirect leads, if one may go there: never from https
// to http, and not to addresses inside this machine or of its link.
func (r *Registry) follow(resp *http.Response, hop int) (*url.URL, error) {
	from := resp.Request.URL
	if hop >= maxHops {
		return nil, protocolError(from.Host, "more than %d redirects", maxHops)
	}
	to, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || to.Host == "" {
		return nil, protocolError(from.Host, "a redirect to no valid location")
	}
	to.User, to.Fragment = nil, ""
	if err := r.checkHop(from, to); err != nil {
		return nil, &answerError{text: from.Host + " redirects " + err.Error() + ": refused", verdict: permanent}
	}
	return to, nil
}

func (r *Registry) checkHop(from, to *url.URL) error {
	switch {
	case to.Scheme == "https":
	case to.Scheme != "http":
		return fmt.Errorf("to %s with an unknown scheme", to.Host)
	case from.Scheme != "http":
		return fmt.Errorf("from https to plain http at %s", to.Host)
	case !r.plainHTTP(to.Host):
		return fmt.Errorf("to %s with plain http, which is only used for loopback hosts and those named for it", to.Host)
	}
	if to.Host == from.Host {
		return nil
	}
	a, err := netip.ParseAddr(hostname(to.Host))
	if err == nil && (a.Unmap().IsLinkLocalUnicast() || a.IsUnspecified()) {
		return fmt.Errorf("to the link-local address %s", to.Host)
	}
	if loopbackHost(to.Host) && !loopbackHost(from.Host) {
		return fmt.Errorf("to the loopback host %s", to.Host)
	}
	return nil
}

// checkRealm checks the token server that a registry at origin (scheme://host)
// names: the rules are those of a redirect, since it will see the password.
func (r *Registry) checkRealm(realm, origin string) (*url.URL, error) {
	from, err := url.Parse(origin)
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(realm)
	if err != nil || to.Host == "" {
		return nil, protocolError(from.Host, "a token server with no valid location")
	}
	to.User, to.Fragment = nil, ""
	if err := r.checkHop(from, to); err != nil {
		return nil, &answerError{text: from.Host + " sends for a token " + err.Error() + ": refused", verdict: permanent}
	}
	return to, nil
}

func isRedirect(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	}
	return false
}
