// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Threads that wait for requests of one connection: one is started when none
// is left, and one ends when there would be more than maxIdle.
const (
	minIdle = 2
	maxIdle = 4
)

// Conn is a mounted FUSE connection that outlives the process that serves it.
type Conn struct {
	// Dev is /dev/fuse, opened without O_NONBLOCK.
	Dev *os.File
	// Init is the kernel's INIT request, as read from Dev.
	Init []byte
	// Slots is the memory file of SlotsSize bytes that every server of this
	// connection has used. It must be all zeros for the first one.
	Slots *os.File
	// Refuse answers the requests that earlier servers left behind with EIO:
	// for when one of them seems to make every server crash.
	Refuse bool
	// Logger receives what cannot be returned to anybody: answers that
	// failed. Nil: slog's default.
	Logger *slog.Logger
}

// Serve answers the connection's requests, those first that an earlier server
// left behind, and returns nil when the connection has ended: when it was
// unmounted and nobody uses it any more, or was aborted. c's files stay open.
//
// When ctx ends, Serve returns its error at once and answers nothing more but
// what is being answered; the threads that wait for the kernel stay until the
// connection or the process ends. Requests left over are for the next server.
func Serve(ctx context.Context, fs fuse.RawFileSystem, c Conn) error {
	s := &server{ctx: ctx, dev: int(c.Dev.Fd()), refuse: c.Refuse, log: c.Logger, ended: make(chan struct{})}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.ps = newProtocolServer(fs, s.log)
	var err error
	if s.slots, err = mapSlots(c.Slots); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	if err := s.answerInit(c.Init); err != nil {
		s.slots.close()
		if errors.Is(err, unix.ENODEV) {
			return nil
		}
		return fmt.Errorf("serve: INIT: %w", err)
	}
	s.start()
	select {
	case <-s.ended:
		runtime.KeepAlive(c.Dev)
		return errors.Join(s.err, s.slots.close())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// server is one connection being served.
type server struct {
	ctx    context.Context // ends the serving, see Serve
	dev    int
	refuse bool
	log    *slog.Logger
	ps     *fuse.ProtocolServer
	slots  *slots
	ended  chan struct{} // closed when the last thread has ended

	idle atomic.Int32 // threads that wait for a request

	mu      sync.Mutex
	free    []int // slots without a thread
	threads int
	err     error // the first that ended a thread
}

// start gives each request that was left behind a thread of its own, and
// starts those that wait for new ones.
func (s *server) start() {
	s.mu.Lock()
	var left []int
	for i := MaxThreads - 1; i >= 0; i-- {
		if s.slots.left(i) {
			left = append(left, i)
		} else {
			s.free = append(s.free, i)
		}
	}
	s.threads = len(left)
	s.mu.Unlock()
	for range minIdle {
		s.spawn()
	}
	for _, i := range left {
		go s.thread(i, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.threads == 0 { // cannot be: there is a slot for each thread
		close(s.ended)
	}
}

// spawn starts a thread that waits for requests, if a slot is free.
func (s *server) spawn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.free)
	if n == 0 {
		return
	}
	i := s.free[n-1]
	s.free = s.free[:n-1]
	s.threads++
	s.idle.Add(1)
	go s.thread(i, false)
}

// thread answers requests through slot i until the connection ends or enough
// other threads wait. With left set, the slot holds a request already.
func (s *server) thread(i int, left bool) {
	// Never unlocked: the thread of the system ends with this goroutine.
	runtime.LockOSThread()
	// A bootstrap that is cut short while mapped faults: EIO, not the end.
	debug.SetPanicOnFault(true)
	s.slots.hold(i)
	err := s.loop(i, left)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == errLeft:
	case err == nil, errors.Is(err, unix.ENODEV):
		s.slots.release(i)
		s.free = append(s.free, i)
	case s.err == nil:
		s.err = err
	}
	if s.threads--; s.threads == 0 {
		close(s.ended)
	}
}

// loop is the life of a thread. On entry it counts as idle unless left is set.
func (s *server) loop(i int, left bool) error {
	buf := s.slots.request(i)
	answer := s.answer
	if left && s.refuse {
		answer = s.reject
	}
	for {
		if left {
			if err := answer(s.slots.pending(i), i); err != nil {
				return err
			}
			answer = s.answer
			left = false
			s.slots.clear(i)
			if !s.rest() {
				return nil
			}
		}
		if s.ctx.Err() != nil {
			s.idle.Add(-1)
			return nil
		}
		s.slots.clear(i)
		n, err := unix.Read(s.dev, buf)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN, err == unix.ENOENT: // ENOENT: the request was withdrawn
			continue
		case err != nil:
			s.idle.Add(-1)
			return fmt.Errorf("read request: %w", err)
		case n < headerSize:
			s.idle.Add(-1)
			return fmt.Errorf("read request: %d bytes", n)
		}
		if s.idle.Add(-1) == 0 {
			s.spawn()
		}
		left = true
	}
}

// rest counts the calling thread as idle again, unless enough threads are.
func (s *server) rest() bool {
	for {
		n := s.idle.Load()
		if n >= maxIdle {
			return false
		}
		if s.idle.CompareAndSwap(n, n+1) {
			return true
		}
	}
}
