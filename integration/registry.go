// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Registry is a real registry on an ephemeral loopback port, plain http.
type Registry struct {
	Host string // "127.0.0.1:port", as in image names
	conf string
	data string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// StartRegistry starts Debian's docker-registry and makes it the Env's.
func (e *Env) StartRegistry(t TB) *Registry {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("registry: %v", err)
	}
	r := &Registry{Host: l.Addr().String(), conf: e.Path(t, "registry", "config.yml"), log: e.Path(t, "registry", "log"), data: e.Path(t, "registry", "data")}
	l.Close()
	conf := fmt.Sprintf(`version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: %s}
`, r.data, r.Host)
	if err := os.WriteFile(r.conf, []byte(conf), 0o644); err != nil {
		t.Fatalf("registry: %v", err)
	}
	r.Start(t)
	t.Cleanup(func() { r.Stop() })
	e.Registry = r
	return r
}

// Start starts the registry, on the same port and data as before.
func (r *Registry) Start(t TB) {
	t.Helper()
	out, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("registry: %v", err)
	}
	defer out.Close()
	cmd := exec.Command("docker-registry", "serve", r.conf)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("registry: %v", err)
	}
	r.cmd, r.done = cmd, make(chan struct{})
	go func() { cmd.Wait(); close(r.done) }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := waitFor(ctx, "the registry", func() bool {
		resp, err := http.Get("http://" + r.Host + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}); err != nil {
		b, _ := os.ReadFile(r.log)
		t.Fatalf("%v\n%s", err, b)
	}
}

// Stop kills the registry, as an outage would.
func (r *Registry) Stop() {
	if r.cmd == nil {
		return
	}
	r.cmd.Process.Kill()
	<-r.done
	r.cmd = nil
}

// Wipe makes the registry an empty one.
func (r *Registry) Wipe(t TB) {
	t.Helper()
	r.Stop()
	if err := os.RemoveAll(r.data); err != nil {
		t.Fatalf("registry: %v", err)
	}
	r.Start(t)
}

// Ref names an image of this registry.
func (r *Registry) Ref(name string) string {
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return r.Host + "/" + name
}
