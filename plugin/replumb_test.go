// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// plumbed is a replumb behind a server, as the first process of a container has it.
type plumbed struct {
	*replumb
	t    *testing.T
	url  string
	addr string
	need chan error
}

func newPlumbed(t *testing.T, shm, user string) *plumbed {
	t.Helper()
	need := make(chan error, 1)
	r := &replumb{file: filepath.Join(shm, "dials"), user: user, dir: shm, need: need, log: slog.New(slog.DiscardHandler), fresh: map[net.Conn]bool{}}
	if err := r.begin(); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(r.handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) })))
	srv.Config.ConnState = r.state
	srv.Start()
	t.Cleanup(srv.Close)
	return &plumbed{replumb: r, t: t, url: srv.URL, addr: srv.Listener.Addr().String(), need: need}
}

func (p *plumbed) call(name string) error {
	resp, err := http.Post(p.url+"/GraphDriver."+name, "", nil)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// dial is a daemon's look whether the plugin listens, the want'th.
func (p *plumbed) dial(want int64) {
	p.t.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	c.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if st, err := os.Stat(p.file); err == nil && st.Size() == want {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("the connection was not counted: want %d", want)
		}
	}
}

func (p *plumbed) ends() bool {
	select {
	case <-p.need:
		return true
	default:
		return false
	}
}

// Only an Init after a second silent connection, with nothing mounted, ends the plugin.
func TestReplumb(t *testing.T) {
	dir := t.TempDir()
	p := newPlumbed(t, dir, filepath.Join(t.TempDir(), "daemon"))
	p.dial(1)
	for range 2 {
		if err := p.call("Init"); err != nil {
			t.Fatalf("Init of the daemon that started the plugin: %v", err)
		}
	}
	p.dial(2)
	if err := p.call("Get"); err != nil {
		t.Fatalf("another call: %v", err)
	}
	p.dir = "/proc" // something is mounted there
	if err := p.call("Init"); err != nil {
		t.Fatalf("Init with containers running: %v", err)
	}
	p.dir = dir
	if err := p.call("Init"); err == nil {
		t.Fatal("Init of another daemon, with nothing mounted, was answered")
	}
	if !p.ends() {
		t.Fatal("the plugin goes on")
	}
}

// A plugin that follows one whose daemon said no Cleanup ends once, at the first Init.
func TestReplumbAfterKilledDaemon(t *testing.T) {
	user := filepath.Join(t.TempDir(), "daemon")
	first := newPlumbed(t, t.TempDir(), user)
	first.dial(1)
	if err := first.call("Init"); err != nil {
		t.Fatal(err)
	}
	shm := t.TempDir()
	second := newPlumbed(t, shm, user)
	second.dial(1)
	if err := second.begin(); err != nil { // another driver process of the same container
		t.Fatal(err)
	}
	if err := second.call("Init"); err == nil || !second.ends() {
		t.Fatalf("Init after a killed daemon was answered: %v", err)
	}
	third := newPlumbed(t, t.TempDir(), user)
	third.dial(1)
	for _, name := range []string{"Init", "Cleanup"} {
		if err := third.call(name); err != nil || third.ends() {
			t.Fatalf("%s of the plugin's next container: %v", name, err)
		}
	}
	fourth := newPlumbed(t, t.TempDir(), user)
	fourth.dial(1)
	if err := fourth.call("Init"); err != nil {
		t.Fatalf("Init after an orderly end: %v", err)
	}
}

// A daemon with live-restore goes on with a plugin that was started while the daemon before it lived.
func TestReplumbLiveRestore(t *testing.T) {
	user := filepath.Join(t.TempDir(), "daemon")
	if err := os.WriteFile(user, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPlumbed(t, t.TempDir(), user)
	p.dial(1) // by the daemon that started it again after a crash; it says no Init
	p.dial(2)
	p.dir = "/proc"
	if err := p.call("Init"); err != nil || p.ends() {
		t.Fatalf("Init with containers running: %v", err)
	}
}
