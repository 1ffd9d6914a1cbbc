// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/moby/sys/mountinfo"
)

// dialsFile counts, one byte each, how often a daemon has looked whether the
// plugin listens. It lies in a file system that lives as long as the plugin's
// container: another worker goes on counting, another container starts anew.
const dialsFile = "/dev/shm/lighter-dials"

// replumb notices that the host no longer sees our mounts.
//
// A daemon with live-restore that is stopped while no container runs leaves the
// plugin running, but unmounts the plugin's propagated mount on the host; the
// next daemon does not mount it again, and what we mount from then on is seen
// by nobody. Only a new start of the plugin's container mends that. So when a
// daemon other than the one that started us says Init, and nothing is mounted
// (with containers running, mounts stand, and the daemon has unmounted
// nothing), the plugin ends without an answer: Docker starts it again and
// repeats the call.
//
// Each daemon connects once, without saying anything, when it has started the
// plugin or found it running: by that they are counted.
type replumb struct {
	file string       // dialsFile
	dir  string       // mounts are looked for below it
	need chan<- error // told once when the plugin has to end; buffered
	log  *slog.Logger

	mu    sync.Mutex
	fresh map[net.Conn]bool // connections that have said nothing yet
}

// state is the http.Server's ConnState.
func (r *replumb) state(c net.Conn, s http.ConnState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch s {
	case http.StateNew:
		r.fresh[c] = true
	case http.StateClosed:
		if r.fresh[c] {
			r.count()
		}
		delete(r.fresh, c)
	default:
		delete(r.fresh, c)
	}
}

func (r *replumb) count() {
	f, err := os.OpenFile(r.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write([]byte{'.'})
		f.Close()
	}
	if err != nil {
		r.log.Warn("connections of daemons are not counted", "error", err)
	}
}

// severed says whether the host sees our mounts no more.
func (r *replumb) severed() bool {
	st, err := os.Stat(r.file)
	if err != nil || st.Size() < 2 {
		return false
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(r.dir))
	return err == nil && len(mounts) == 0
}

// handler passes calls on to next, except an Init that shows that the plugin has to start anew.
func (r *replumb) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/GraphDriver.Init" && r.severed() {
			r.log.Info("a daemon was restarted with live-restore and without containers: starting anew, for it to see mounts again")
			select {
			case r.need <- nil:
			default:
			}
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, req)
	})
}
