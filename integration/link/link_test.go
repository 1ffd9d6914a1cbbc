// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"lighter/integration/link"
)

func serve(t *testing.T, o link.Options, answer []byte) (*link.Link, string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(answer) }))
	t.Cleanup(srv.Close)
	k, err := link.New(srv.Listener.Addr().String(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k, "http://" + k.Addr + "/"
}

func get(t *testing.T, url string, want []byte) time.Duration {
	start := time.Now()
	resp, err := http.Get(url)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d: %v", len(got), len(want), err)
	}
	return time.Since(start)
}

func TestBandwidthIsShared(t *testing.T) {
	answer := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	k, url := serve(t, link.Options{Rate: 10 << 20}, answer)
	start := time.Now()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { get(t, url, answer) })
	}
	all.Wait()
	if d := time.Since(start); d < 380*time.Millisecond {
		t.Errorf("4 MiB at 10 MiB/s took %v", d)
	}
	if n := k.Bytes(); n < 4<<20 || n > 4<<20+4096 {
		t.Errorf("counted %d bytes", n)
	}
}

func TestEveryRoundTripIsLate(t *testing.T) {
	_, url := serve(t, link.Options{RTT: 50 * time.Millisecond}, []byte("x"))
	if d := get(t, url, []byte("x")); d < 100*time.Millisecond {
		t.Errorf("connection and first answer took %v, less than two round trips", d)
	}
	if d := get(t, url, []byte("x")); d < 50*time.Millisecond {
		t.Errorf("second answer took %v, less than a round trip", d)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	k, url := serve(t, link.Options{}, []byte("x"))
	get(t, url, []byte("x"))
	done := make(chan struct{})
	go func() { k.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("Close hangs on an idle connection")
	}
}
