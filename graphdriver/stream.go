// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
)

const (
	tailSize   = 8192      // bytes kept of a stream's end; enough for a table of contents or a blob's header
	blockSize  = 256 << 10 // bytes
	blocksHeld = 8
)

// stream is the body of an ApplyDiff. A goroutine of its own reads it ahead and hashes it, so that receiving a layer and
// unpacking it use two processors. Its other end is for one goroutine.
type stream struct {
	full    chan []byte
	free    chan []byte
	stopped chan struct{} // closed by stop
	ended   chan struct{} // closed at the end of the goroutine

	block []byte // what Read has taken last
	rest  []byte // what is left of it

	// The goroutine's; for others once full is closed.
	hash hash.Hash
	size int64
	tail []byte
	err  error
}

// newStream starts to read r. stop must be called.
func newStream(r io.Reader) *stream {
	s := &stream{
		full:    make(chan []byte, blocksHeld),
		free:    make(chan []byte, blocksHeld),
		stopped: make(chan struct{}),
		ended:   make(chan struct{}),
		hash:    sha256.New(),
	}
	for range blocksHeld {
		s.free <- nil
	}
	go s.readAhead(r)
	return s
}

func (s *stream) readAhead(r io.Reader) {
	defer close(s.ended)
	defer close(s.full)
	for s.err == nil {
		var b []byte
		select {
		case b = <-s.free:
		case <-s.stopped:
			return
		}
		if b == nil {
			b = make([]byte, blockSize)
		}
		b = s.fill(r, b[:blockSize])
		if len(b) > 0 {
			s.full <- b // there is room for all blocks
		}
	}
}

// fill reads until the block is full, or to the end.
func (s *stream) fill(r io.Reader, b []byte) []byte {
	n := 0
	for n < len(b) && s.err == nil {
		var m int
		m, s.err = r.Read(b[n:])
		n += m
		select {
		case <-s.stopped:
			return nil
		default:
		}
	}
	b = b[:n]
	s.hash.Write(b)
	s.size += int64(n)
	if n >= tailSize {
		s.tail = append(s.tail[:0], b[n-tailSize:]...)
	} else {
		if over := len(s.tail) + n - tailSize; over > 0 {
			s.tail = s.tail[:copy(s.tail, s.tail[over:])]
		}
		s.tail = append(s.tail, b...)
	}
	return b
}

// next gets a block when the last one is used up.
func (s *stream) next() error {
	if len(s.rest) > 0 {
		return nil
	}
	if s.block != nil {
		s.free <- s.block
		s.block = nil
	}
	b, ok := <-s.full
	if !ok {
		return s.err
	}
	s.block, s.rest = b, b
	return nil
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.next(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// head returns the stream's first n bytes, or all if there are less, before any is read.
func (s *stream) head(n int) ([]byte, error) {
	if err := s.next(); err != nil && err != io.EOF {
		return nil, err
	}
	return s.rest[:min(n, len(s.rest))], nil
}

// finish reads what is left, and returns the digest of the whole stream.
func (s *stream) finish() (string, error) {
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
		return "", err
	}
	return digestOf(s.hash.Sum(nil)), nil
}

// stop ends the reading, and waits for the Read under way.
func (s *stream) stop() {
	close(s.stopped)
	<-s.ended
}

// verifyReader gives the bytes of r, and an error in place of io.EOF unless they were the wanted ones.
type verifyReader struct {
	r      io.ReadCloser
	what   string // for the error
	digest string
	size   int64
	hash   hash.Hash
	n      int64
	err    error
}

func newVerifyReader(r io.ReadCloser, what, digest string, size int64) *verifyReader {
	return &verifyReader{r: r, what: what, digest: digest, size: size, hash: sha256.New()}
}

func (v *verifyReader) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	if v.n > v.size {
		v.err = fmt.Errorf("%s: what is stored is longer than the %d bytes it had", v.what, v.size)
		return 0, v.err
	}
	if err == io.EOF {
		if got := digestOf(v.hash.Sum(nil)); got != v.digest {
			err = fmt.Errorf("%s: what is stored has digest %s (%d bytes), it came as %s (%d bytes)", v.what, got, v.n, v.digest, v.size)
		}
	} else if err != nil {
		err = fmt.Errorf("%s: %w", v.what, err)
	}
	v.err = err
	return n, err
}

func (v *verifyReader) Close() error { return v.r.Close() }
