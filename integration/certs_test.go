// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/pem"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A registry whose certificate only certs.d knows is read from, one that
// nothing vouches for is not.
func TestRegistryCertificates(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	ref := e.convert(t, Python)
	behind := New(t).StartRegistry(t)
	e.Lighter(t, "copy", ref, behind.Ref(Python))
	e.Registry.Stop() // the image's hint leads nowhere
	front := httptest.NewTLSServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind.Host}))
	t.Cleanup(front.Close)
	host := front.Listener.Addr().String()
	ref = host + "/" + Python + ":latest"
	d := e.StartLighter(t, DaemonOptions{})
	d.Docker(t, "pull", "-q", ref) // Docker verifies no certificate of an address that it holds for insecure
	run := func() (string, error) {
		return d.TryDocker("run", "--rm", "--network=none", ref, "python3", "-c", "import numpy; print(numpy.arange(4).sum())")
	}
	if _, err := run(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("run with a registry that nobody vouches for: %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	dir := filepath.Join(d.Etc, "certs.d", host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err != nil || strings.TrimSpace(out) != "6" {
		t.Errorf("run with the registry's authority: %q, %v", out, err)
	}
}
