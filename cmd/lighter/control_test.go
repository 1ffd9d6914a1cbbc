// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// plugin answers like the running plugin, on a socket whose path is longer than a socket's name may be.
func plugin(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"version":"1.2","pid":77,"started":"2026-01-02T03:04:05Z","mounts":3,"cache":{"images":2,"reads":10,"cache_bytes":5000000}}`))
	})
	mux.HandleFunc("GET /v1/mounts", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"mounts":[{"id":"a","target":"/x","complete":true,"spec":{"bootstrap":"/b","repositories":["h/r"]}},{"id":"b","target":"/y","error":"gone"}]}`))
	})
	mux.HandleFunc("POST /v1/cache/prune", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("keep") != "1048576" {
			w.WriteHeader(http.StatusBadRequest)
			w.Write([]byte(`{"error":"keep is ` + r.URL.Query().Get("keep") + `"}`))
			return
		}
		w.Write([]byte(`{"freed":123456789}`))
	})
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: mux}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "unix://" + dir + strings.Repeat("/.", 60) + "/s"
}

func TestControl(t *testing.T) {
	host := plugin(t)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"status", "--host", host}, []string{"version  1.2, process 77", "mounts   3, 2 images open", "5 MB on disk"}},
		{[]string{"status", "--json", "--host", host}, []string{`"pid": 77`}},
		{[]string{"ps", "--host", host}, []string{"ID  COMPLETE  FROM  TARGET  ERROR", "a   true      h/r   /x", "b   false           /y      gone"}},
		{[]string{"ps", "--json", "--host", host}, []string{`"target": "/x"`}},
		{[]string{"cache", "du", "--host", host}, []string{"cache    5 MB on disk"}},
		{[]string{"cache", "prune", "--keep", "1MiB", "--host", host}, []string{"freed 123 MB"}},
	} {
		out := must(t, c.args...)
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%q shows %q, without %q", c.args, out, w)
			}
		}
	}
	if _, errs, code := lighter(t, "cache", "prune", "--host", host); code != exitFailed || !strings.Contains(errs, "keep is 0") {
		t.Errorf("status %d: %s", code, errs)
	}
}
