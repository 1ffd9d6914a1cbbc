// SPDX-License-Identifier: Apache-2.0

// Package lazyfstest has what tests of lazyfs and of its users need: a store
// of blobs in memory that counts and misbehaves on command, and real images.
package lazyfstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// Source is lazyfs.Source.
type Source = interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Size() int64
}

// Call is one ranged read of a stored blob.
type Call struct {
	Blob string
	Off  int64 // bytes
	N    int   // bytes
	Seq  int64 // 1 for the first call of the store
}

// Fault stands in for a read. It may call read, which fills p, before or
// after it does harm.
type Fault func(ctx context.Context, c Call, p []byte, read func() (int, error)) (int, error)

// Blobs is a lazyfs.Opener over blobs in memory. It is safe for concurrent
// use.
type Blobs struct {
	Requests atomic.Int64 // ranged reads
	Bytes    atomic.Int64 // bytes that they returned
	Opens    atomic.Int64
	Closed   atomic.Int64 // sources that were closed

	mu        sync.Mutex
	m         map[string][]byte
	fault     Fault
	openFault func(ctx context.Context, id string) error
	calls     []Call
}

// NewBlobs returns a store that holds m, by blob id.
func NewBlobs(m map[string][]byte) *Blobs {
	b := &Blobs{m: map[string][]byte{}}
	for id, p := range m {
		b.m[id] = p
	}
	return b
}

// Put adds or replaces a blob; nil removes it.
func (b *Blobs) Put(id string, p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.m[id] = p; p == nil {
		delete(b.m, id)
	}
}

// SetFault makes f stand in for all reads from now on; nil ends that.
func (b *Blobs) SetFault(f Fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = f
}

// SetOpenFault makes Open fail with what f returns, if not nil.
func (b *Blobs) SetOpenFault(f func(ctx context.Context, id string) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.openFault = f
}

// Calls returns the reads so far, and forgets them.
func (b *Blobs) Calls() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

// Open implements lazyfs.Opener.
func (b *Blobs) Open(ctx context.Context, id string) (Source, error) {
	b.Opens.Add(1)
	b.mu.Lock()
	p, fault := b.m[id], b.openFault
	b.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, id); err != nil {
			return nil, err
		}
	}
	if p == nil {
		return nil, fmt.Errorf("blob %s: %w", id, fs.ErrNotExist)
	}
	return &source{b: b, id: id, p: p}, nil
}

type source struct {
	b      *Blobs
	id     string
	p      []byte
	reads  atomic.Int64
	closed atomic.Bool
}

func (s *source) Size() int64 { return int64(len(s.p)) }

func (s *source) Close() error {
	if s.reads.Load() != 0 || s.closed.Swap(true) {
		panic("source closed twice or while it is read")
	}
	s.b.Closed.Add(1)
	return nil
}

func (s *source) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	s.reads.Add(1)
	defer s.reads.Add(-1)
	if s.closed.Load() {
		panic("read of a closed source")
	}
	call := Call{Blob: s.id, Off: off, N: len(p), Seq: s.b.Requests.Add(1)}
	s.b.mu.Lock()
	fault := s.b.fault
	s.b.calls = append(s.b.calls, call)
	s.b.mu.Unlock()
	read := func() (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if off < 0 || off >= int64(len(s.p)) {
			return 0, io.EOF
		}
		n := copy(p, s.p[off:])
		if n < len(p) {
			return n, io.EOF
		}
		return n, nil
	}
	if fault == nil {
		fault = func(_ context.Context, _ Call, _ []byte, read func() (int, error)) (int, error) { return read() }
	}
	n, err := fault(ctx, call, p, read)
	s.b.Bytes.Add(int64(n))
	return n, err
}

// ErrDown is what Down returns: a store that cannot be reached for now.
var ErrDown = errors.New("connection refused")

// Down fails every read at once.
func Down(context.Context, Call, []byte, func() (int, error)) (int, error) { return 0, ErrDown }

// Hang answers no read before its context ends.
func Hang(ctx context.Context, _ Call, _ []byte, _ func() (int, error)) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// Slow delays every read.
func Slow(d time.Duration) Fault {
	return func(ctx context.Context, _ Call, _ []byte, read func() (int, error)) (int, error) {
		select {
		case <-time.After(d):
			return read()
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Reset breaks the connection in the middle of every answer.
func Reset(_ context.Context, _ Call, p []byte, read func() (int, error)) (int, error) {
	n, _ := read()
	n /= 2
	clear(p[n:])
	return n, errors.New("connection reset by peer")
}

// Flip changes one byte in the middle of every answer.
func Flip(_ context.Context, _ Call, p []byte, read func() (int, error)) (int, error) {
	n, err := read()
	if n > 0 {
		p[n/2] ^= 0x20
	}
	return n, err
}

// First applies f to the first n reads from now on, and no fault to later ones.
func First(n int64, f Fault) Fault {
	var seen atomic.Int64
	return func(ctx context.Context, c Call, p []byte, read func() (int, error)) (int, error) {
		if seen.Add(1) > n {
			return read()
		}
		return f(ctx, c, p, read)
	}
}
