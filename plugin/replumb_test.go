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

// Only an Init after a second silent connection, with nothing mounted, ends the plugin.
func TestReplumb(t *testing.T) {
	need := make(chan error, 1)
	dir := t.TempDir()
	r := &replumb{file: filepath.Join(dir, "dials"), dir: dir, need: need, log: slog.New(slog.DiscardHandler), fresh: map[net.Conn]bool{}}
	srv := httptest.NewUnstartedServer(r.handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) })))
	srv.Config.ConnState = r.state
	srv.Start()
	defer srv.Close()
	call := func(name string) error {
		resp, err := http.Post(srv.URL+"/GraphDriver."+name, "", nil)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	dial := func(want int64) {
		t.Helper()
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if st, err := os.Stat(r.file); err == nil && st.Size() == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the connection was not counted: want %d", want)
			}
		}
	}
	dial(1)
	for range 2 {
		if err := call("Init"); err != nil {
			t.Fatalf("Init of the daemon that started the plugin: %v", err)
		}
	}
	dial(2)
	if err := call("Get"); err != nil {
		t.Fatalf("another call: %v", err)
	}
	r.dir = "/proc" // something is mounted there
	if err := call("Init"); err != nil {
		t.Fatalf("Init with containers running: %v", err)
	}
	r.dir = dir
	if err := call("Init"); err == nil {
		t.Fatal("Init of another daemon, with nothing mounted, was answered")
	}
	select {
	case <-need:
	default:
		t.Fatal("the plugin goes on")
	}
}
