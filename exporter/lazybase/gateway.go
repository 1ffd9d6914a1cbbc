// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/resolver"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// gateway is the registries as the daemon reaches them: a request for a blob,
// whose host is that of the registry's name, goes to its mirrors and then to
// itself, with the scheme, certificates and credentials that the daemon would
// use for a pull. Redirects are followed.
type gateway struct {
	hosts    docker.RegistryHosts
	manager  *session.Manager
	sessions *sessions
	content  content.Store
}

var blobPath = regexp.MustCompile(`^/v2/(.+)/blobs/(sha256:[0-9a-f]{64})$`)

// ServeHTTP answers the server that has images mounted. A blob that the daemon
// has, because it was built here, comes from there.
func (g *gateway) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	m := blobPath.FindStringSubmatch(req.URL.Path)
	if m == nil || req.Method != http.MethodGet && req.Method != http.MethodHead {
		http.Error(rw, "blobs can be read, nothing else", http.StatusForbidden)
		return
	}
	if ra, err := g.content.ReaderAt(req.Context(), ocispecs.Descriptor{Digest: digest.Digest(m[2])}); err == nil {
		defer ra.Close()
		rw.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(rw, req, "", time.Time{}, io.NewSectionReader(ra, 0, ra.Size()))
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Host, r.Out.URL.Scheme = r.In.Host, "https" },
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, err error) {
			bklog.G(req.Context()).WithError(err).Warnf("read of an accelerated image: %s%s", req.Host, req.URL.Path)
			http.Error(rw, err.Error(), http.StatusBadGateway)
		},
		Transport: g,
	}
	proxy.ServeHTTP(rw, req)
}

// RoundTrip asks the registry's hosts in turn; the first answer that is none of
// a missing blob or a broken server counts.
func (g *gateway) RoundTrip(req *http.Request) (*http.Response, error) {
	m := blobPath.FindStringSubmatch(req.URL.Path)
	if m == nil {
		return nil, fmt.Errorf("%s: is no blob", req.URL.Path)
	}
	host := req.URL.Host
	if host == "index.docker.io" {
		host = "docker.io"
	}
	repository := host + "/" + m[1]
	group := g.sessions.group(repository)
	hosts, err := resolver.DefaultPool.GetResolver(g.hosts, repository, resolver.ScopeType{}, g.manager, group).HostsFunc(host)
	if err != nil {
		return nil, err
	}
	ctx, err := docker.ContextWithRepositoryScope(req.Context(), reference.Spec{Locator: repository}, false)
	if err != nil {
		return nil, err
	}
	var last *http.Response
	var failed []error
	for _, h := range hosts {
		if !h.Capabilities.Has(docker.HostCapabilityPull) {
			continue
		}
		resp, err := askHost(ctx, h, req, m[1], m[2])
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", h.Host, err))
			continue
		}
		if last != nil {
			last.Body.Close()
		}
		if last = resp; resp.StatusCode < 400 || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			break
		}
	}
	if last == nil {
		return nil, errors.Join(append(failed, fmt.Errorf("%s: no host to pull from answers", repository))...)
	}
	return last, nil
}

// mostTries bounds the authorizations that one access tries with one host.
const mostTries = 4

func askHost(ctx context.Context, h docker.RegistryHost, req *http.Request, repository, blob string) (*http.Response, error) {
	u := url.URL{Scheme: h.Scheme, Host: h.Host, Path: h.Path + "/" + repository + "/blobs/" + blob}
	client := h.Client
	if client == nil {
		client = http.DefaultClient
	}
	var refused []*http.Response
	for {
		out, err := http.NewRequestWithContext(ctx, req.Method, u.String(), nil)
		if err != nil {
			return nil, err
		}
		for k, v := range h.Header {
			out.Header[k] = v
		}
		out.Header.Set("Accept-Encoding", "identity")
		if r := req.Header.Get("Range"); r != "" {
			out.Header.Set("Range", r)
		}
		if h.Authorizer != nil {
			if err := h.Authorizer.Authorize(ctx, out); err != nil {
				return nil, err
			}
		}
		resp, err := client.Do(out)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || h.Authorizer == nil || len(refused) == mostTries {
			return resp, err
		}
		refused = append(refused, resp)
		if err := h.Authorizer.AddResponses(ctx, refused); err != nil {
			return resp, nil // the registry's answer says more
		}
		resp.Body.Close()
	}
}
