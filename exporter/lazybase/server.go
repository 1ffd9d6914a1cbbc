// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/util/bklog"

	"lighter/lazyfs/mounts"
)

const (
	mountSocket = "mount.sock" // where the server mounts: POST /mount, /unmount, /prune with a call
	dataSocket  = "data.sock"  // where the daemon gives it blobs
	// stopTimeout is how long the server may take to end.
	stopTimeout = 15 * time.Second
)

// call is the body of all calls; each uses what it needs.
type call struct {
	ID     string
	Spec   mounts.Spec
	Target string
}

// server is the daemon's end of the process that serves mounts. The process is
// started with the first mount, and anew if it has ended.
type server struct {
	dir  string
	data http.Handler // blobs

	mu      sync.Mutex
	closed  bool
	running *running
}

// running is one life of the process.
type running struct {
	alive  *os.File // closing it ends the process
	ended  chan struct{}
	data   *http.Server
	client *http.Client

	mu      sync.Mutex
	mounted map[string]bool
}

func (s *server) cacheDir() string { return filepath.Join(s.dir, "cache") }

func (s *server) mount(ctx context.Context, hex string, im *Image, tree string) error {
	r, err := s.start()
	if err != nil {
		return err
	}
	if r.isMounted(hex) {
		return nil
	}
	err = r.call(ctx, "mount", call{ID: hex, Target: tree, Spec: mounts.Spec{
		Bootstrap: im.Bootstrap(), Digest: im.Digest, MetaDir: im.dir, Repositories: im.Repositories(), Probe: true,
	}})
	if err == nil {
		r.mu.Lock()
		r.mounted[hex] = true
		r.mu.Unlock()
	}
	return err
}

func (r *running) isMounted(hex string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mounted[hex]
}

func (s *server) unmount(ctx context.Context, hex string) error {
	s.mu.Lock()
	r := s.running
	s.mu.Unlock()
	if r == nil || !r.isMounted(hex) {
		return nil
	}
	r.mu.Lock()
	delete(r.mounted, hex)
	r.mu.Unlock()
	return r.call(ctx, "unmount", call{ID: hex})
}

// prune frees the chunks of images that are not mounted.
func (s *server) prune(ctx context.Context) error {
	r, err := s.start()
	if err != nil {
		return err
	}
	return r.call(ctx, "prune", call{})
}

// start starts the process, unless it is there.
func (s *server) start() (*running, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the daemon is stopping")
	}
	if s.running != nil {
		select {
		case <-s.running.ended:
			s.running.data.Close()
		default:
			return s.running, nil
		}
	}
	r, err := s.spawn()
	if err != nil {
		return nil, fmt.Errorf("server of accelerated images: %w", err)
	}
	s.running = r
	return r, nil
}

func (s *server) spawn() (_ *running, err error) {
	data, err := listen(s.dir, dataSocket)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			data.Close()
		}
	}()
	mounting, err := listen(s.dir, mountSocket)
	if err != nil {
		return nil, err
	}
	defer mounting.Close() // the process has its own
	inherited, err := mounting.File()
	if err != nil {
		return nil, err
	}
	defer inherited.Close()
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe", keeperArg, s.dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{inherited}
	// What is sent to the daemon's group is not for it: builds that are
	// coming to their end still read.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	r := &running{alive: ours, ended: make(chan struct{}), mounted: map[string]bool{}, data: &http.Server{Handler: s.data, ReadHeaderTimeout: time.Minute}}
	r.client = &http.Client{Transport: &http.Transport{DialContext: dialer(s.dir, mountSocket)}}
	go r.data.Serve(data)
	go func() {
		defer close(r.ended)
		if err := cmd.Wait(); err != nil {
			bklog.L.WithError(err).Warn("server of accelerated images ended")
		}
		ours.Close()
	}()
	return r, nil
}

func (r *running) call(ctx context.Context, verb string, c call) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // nobody else would notice
		select {
		case <-r.ended:
			cancel(errors.New("the server ended"))
		case <-stop:
		}
	}()
	body, err := json.Marshal(c)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://server/"+verb, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%s: %w", verb, err)
	}
	defer resp.Body.Close()
	var answer struct{ Error string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return fmt.Errorf("%s: the server's answer: %w", verb, err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

// close unmounts everything and ends the process.
func (s *server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	r := s.running
	if r == nil {
		return nil
	}
	r.alive.Close()
	select {
	case <-r.ended:
	case <-time.After(stopTimeout):
		return errors.New("the server of accelerated images does not end")
	}
	return r.data.Close()
}

// within is a path for sockets in dir, whose own path may be too long for them.
// It holds until dir is closed.
func within(dir *os.File, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + name
}

// listen makes a socket for root alone in a directory, in place of an older one.
func listen(dir, name string) (*net.UnixListener, error) {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: within(d, name), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name has no meaning by then
	return l, os.Chmod(filepath.Join(dir, name), 0o600)
}

func dialer(dir, name string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		d, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return (&net.Dialer{}).DialContext(ctx, "unix", within(d, name))
	}
}
