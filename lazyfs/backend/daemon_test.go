// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

// upload pushes a blob with one request to a registry without authentication.
func upload(t *testing.T, base, repo string, content []byte) {
	t.Helper()
	resp, err := http.Post(base+"/v2/"+repo+"/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		t.Fatal(resp.Status, err)
	}
	query := at.Query()
	query.Set("digest", "sha256:"+ID(content))
	at.RawQuery = query.Encode()
	req, err := http.NewRequest(http.MethodPut, at.String(), bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
}

// TestGGCRRegistry runs the suite against go-containerregistry's registry.
func TestGGCRRegistry(t *testing.T) {
	Suite(t, func(t *testing.T, contents ...[]byte) backend.Opener {
		s := httptest.NewServer(registry.New(registry.Logger(quiet)))
		t.Cleanup(s.Close)
		for _, b := range contents {
			upload(t, s.URL, "a/b", b)
		}
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		return client(t, backend.RegistryOptions{}).Repository(u.Host + "/a/b")
	})
}

// daemon runs Debian's docker-registry.
type daemon struct {
	host, config string
	cmd          *exec.Cmd
	log          *lockedBuffer
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{host: l.Addr().String(), log: &lockedBuffer{}}
	l.Close()
	dir := t.TempDir()
	d.config = filepath.Join(dir, "config.yml")
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"+
		"storage: {filesystem: {rootdirectory: %q}, maintenance: {uploadpurging: {enabled: false}}}\nhttp: {addr: %q}\n", dir, d.host)
	if err := os.WriteFile(d.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	t.Cleanup(d.stop)
	return d
}

func (d *daemon) start(t *testing.T) {
	t.Helper()
	d.cmd = exec.Command("docker-registry", "serve", d.config)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get("http://" + d.host + "/v2/")
		if err == nil {
			resp.Body.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("docker-registry does not come up: %v\n%s", err, d.log)
		}
	}
}

func (d *daemon) stop() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
}

// TestDockerRegistry runs the suite against the real registry, which answers a
// TLS handshake with plain http.
func TestDockerRegistry(t *testing.T) {
	d := newDaemon(t)
	n := 0
	Suite(t, func(t *testing.T, contents ...[]byte) backend.Opener {
		n++
		repo := fmt.Sprintf("test/r%d", n)
		for _, b := range contents {
			upload(t, "http://"+d.host, repo, b)
		}
		if len(contents) == 0 {
			t.Fatal("no blobs")
		}
		return client(t, backend.RegistryOptions{}).Repository(d.host + "/" + repo)
	})
	t.Run("other repository", func(t *testing.T) {
		_, err := client(t, backend.RegistryOptions{}).Repository(d.host+"/never/pushed").Open(Context(t, time.Minute), ID(nil))
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "_UNKNOWN") {
			t.Fatal(err)
		}
	})
}

// TestDockerRegistryRestart: the registry is killed and comes back during a read.
func TestDockerRegistryRestart(t *testing.T) {
	d := newDaemon(t)
	content := Random(4<<20, 40)
	upload(t, "http://"+d.host, "a/b", content)
	b := Open(t, Context(t, time.Minute), client(t, backend.RegistryOptions{}).Repository(d.host+"/a/b"), content)
	Read(t, Context(t, time.Minute), b, content, 0, 1000)
	d.stop()
	_, err := b.ReadAt(Context(t, time.Second), make([]byte, 10), 0)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") || errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("while it is away: %v", err)
	}
	read := make(chan error, 1)
	go func() {
		p := make([]byte, len(content))
		_, err := b.ReadAt(Context(t, time.Minute), p, 0)
		if err == nil && !bytes.Equal(p, content) {
			err = errors.New("wrong bytes")
		}
		read <- err
	}()
	time.Sleep(time.Second)
	d.start(t)
	if err := <-read; err != nil {
		t.Fatal(err)
	}
}
