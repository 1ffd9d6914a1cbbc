// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"lighter/lazyfs"
)

// control answers `lighter status`, `ps` and `cache`: JSON on a unix socket
// that only root reaches. An error is {"error": …} with a status from 400 on.
func (w *worker) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, http.StatusOK, struct {
			Version  string       `json:"version"`
			PID      int          `json:"pid"`
			Started  time.Time    `json:"started"`
			Mounts   int          `json:"mounts"`
			Cache    lazyfs.Stats `json:"cache"`
			Registry any          `json:"registry"`
		}{version, os.Getpid(), w.started, len(w.mounts.List()), w.store.Stats(), w.registry.Stats()})
	})
	mux.HandleFunc("GET /v1/mounts", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, http.StatusOK, map[string]any{"mounts": w.mounts.List()})
	})
	mux.HandleFunc("POST /v1/cache/prune", func(rw http.ResponseWriter, r *http.Request) {
		keep := int64(0)
		if v := r.URL.Query().Get("keep"); v != "" {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil || n < 0 {
				answer(rw, http.StatusBadRequest, map[string]string{"error": fmt.Sprintf("keep=%q: want a number of bytes", v)})
				return
			}
			keep = n
		}
		freed, err := w.store.Prune(r.Context(), keep)
		if err != nil {
			answer(rw, http.StatusInternalServerError, map[string]string{"error": err.Error()})
			return
		}
		answer(rw, http.StatusOK, map[string]int64{"freed": freed})
	})
	return mux
}

func answer(rw http.ResponseWriter, status int, v any) {
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	json.NewEncoder(rw).Encode(v)
}

// listenAnew makes a socket of which each worker has its own: clients connect for one question, none waits for a next worker.
func listenAnew(path string) (net.Listener, error) {
	f, err := listen(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}
