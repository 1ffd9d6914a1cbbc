// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/moby/sys/mountinfo"
)

// daemonFile stands while a daemon uses the plugin: from its Init to its
// Cleanup. A plugin that finds it at its start was not left by that daemon in order.
const daemonFile = stateDir + "/run/daemon"

// dialsFile counts, one byte each, how often a daemon has looked whether the
// plugin listens. It lies in a file system that lives as long as the plugin's
// container: another worker goes on counting, another container starts anew.
const dialsFile = "/dev/shm/lighter-dials"

// replumb notices that the host no longer sees our mounts, which two habits of
// Docker bring about. Only a new start of the plugin's container mends it: the
// plugin ends without an answer, Docker starts it again and repeats the call.
//
// A daemon with live-restore that is stopped while no container runs leaves the
// plugin running, but unmounts the plugin's propagated mount on the host; the
// next daemon does not mount it again, and what we mount from then on is seen
// by nobody. So when a daemon other than the one that started us says Init, and
// nothing is mounted (with containers running, mounts stand, and the daemon has
// unmounted nothing), the plugin ends.
//
// A daemon without live-restore that finds the plugin of a killed daemon stops
// it and starts another, and unmounts what belonged to the first at about the
// same time: now and then the mount that it has just made for the second. So
// when the daemon before was not left in order, the plugin ends at the first
// Init. Docker starts it again only when it has unmounted what it will.
//
// Each daemon connects once, without saying anything, when it has started the
// plugin or found it running: by that they are counted.
type replumb struct {
	file string       // dialsFile
	user string       // daemonFile
	dir  string       // mounts are looked for below it
	need chan<- error // told once when the plugin has to end; buffered
	log  *slog.Logger

	mu    sync.Mutex
	fresh map[net.Conn]bool // connections that have said nothing yet
}

// orphanSuffix, behind dialsFile's name, marks a container whose first process found daemonFile.
const orphanSuffix = "-orphan"

// begin is called when the process starts. Only the first one of a container
// sees how the container before it was left.
func (r *replumb) begin() error {
	f, err := os.OpenFile(r.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	if _, err := os.Stat(r.user); err != nil {
		return nil
	}
	return os.WriteFile(r.file+orphanSuffix, nil, 0o600)
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
	if err != nil {
		return false
	}
	if st.Size() < 2 {
		_, err := os.Stat(r.file + orphanSuffix)
		return err == nil
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(r.dir))
	return err == nil && len(mounts) == 0
}

// handler passes calls on to next, except an Init that shows that the plugin has to start anew.
func (r *replumb) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/GraphDriver.Init" {
			if r.severed() {
				r.log.Info("this daemon may not see mounts of this plugin process, because of how the one before it ended: starting anew")
				os.Remove(r.user)
				select {
				case r.need <- nil:
				default:
				}
				panic(http.ErrAbortHandler)
			}
			if err := os.WriteFile(r.user, nil, 0o600); err != nil {
				r.log.Warn("the daemon is not noted", "error", err)
			}
		}
		next.ServeHTTP(w, req)
		if req.URL.Path == "/GraphDriver.Cleanup" {
			os.Remove(r.user)
		}
	})
}
