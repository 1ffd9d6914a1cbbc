// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Errors of this package travel as these numbers.
const (
	errnoExists  = unix.EEXIST
	errnoTimeout = unix.ETIMEDOUT
)

// session is the keeper's side of one worker.
type session struct {
	table   *table
	link    *link
	crashes int // of workers before this one, in a row

	sendMu sync.Mutex
}

// serve makes the process at the other end the worker, gives it all that is
// kept, and does what it asks for, until it is gone and nothing of what it
// asked for is going on any more.
func (s *session) serve(ctx context.Context, listeners []*os.File) error {
	if err := s.handOver(listeners); err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // nobody waits for a dead worker's mount to become ready
	for buf := make([]byte, maxPacket); ; {
		p, files, err := s.link.receive(buf)
		if err != nil {
			return nil
		}
		closeAll(files) // a worker sends none
		wg.Go(func() { s.do(ctx, p) })
	}
}

func (s *session) handOver(listeners []*os.File) error {
	kept, err := s.table.kept()
	if err != nil {
		return err
	}
	defer func() {
		for _, m := range kept {
			m.Close()
		}
	}()
	hello := &packet{Op: opHello, Mounts: len(kept), Crashes: s.crashes}
	for _, l := range listeners {
		hello.Listeners = append(hello.Listeners, l.Name())
	}
	if err := s.link.send(hello, listeners...); err != nil {
		return err
	}
	for _, m := range kept {
		p := &packet{Op: opKept}
		if err := s.link.send(p, p.describe(m)...); err != nil {
			return err
		}
	}
	return nil
}

// do handles one request and sends the reply.
func (s *session) do(ctx context.Context, p *packet) {
	if p.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.Timeout)
		defer cancel()
	}
	r := &packet{Op: opReply, N: p.N}
	var files []*os.File
	var err error
	switch p.Op {
	case opMount:
		var m *Mount
		if m, err = s.table.mount(p.ID, p.Target, p.Meta); err == nil {
			defer m.Close()
			files = r.describe(m)
			r.Meta = nil // known
		}
	case opReady:
		err = s.table.ready(ctx, p.Serial)
	case opUnmount:
		err = s.table.unmount(p.Serial)
	case opRelease:
		err = s.table.release(p.Serial)
	default:
		err = fmt.Errorf("keeper: unknown request %q", p.Op)
	}
	if err != nil {
		r.Error = err.Error()
		r.Errno = errno(err)
	}
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.link.send(r, files...) // a worker that died will be told what is kept
}

func errno(err error) unix.Errno {
	var e unix.Errno
	switch {
	case errors.Is(err, ErrExists):
		return errnoExists
	case errors.Is(err, context.DeadlineExceeded):
		return errnoTimeout
	case errors.As(err, &e):
		return e
	case errors.Is(err, os.ErrNotExist):
		return unix.ENOENT
	}
	return 0
}
