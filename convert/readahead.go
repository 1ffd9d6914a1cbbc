// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"io"
	"sync"
)

// Read-ahead lets inflating a layer and building its blob overlap, with this much memory.
const (
	aheadBuffers = 4
	aheadSize    = 512 << 10 // bytes
)

type piece struct {
	b   []byte
	err error // after b
}

// aheadReader reads r in a goroutine of its own.
type aheadReader struct {
	full  chan piece
	free  chan []byte
	stop  chan struct{}
	wg    sync.WaitGroup
	cur   piece
	whole []byte // the buffer that cur.b is a part of
}

// readAhead starts reading r. Close ends it, after the Read under way.
func readAhead(r io.Reader) *aheadReader {
	a := &aheadReader{full: make(chan piece, aheadBuffers), free: make(chan []byte, aheadBuffers), stop: make(chan struct{})}
	for range aheadBuffers {
		a.free <- make([]byte, aheadSize)
	}
	a.wg.Go(func() { a.run(r) })
	return a
}

func (a *aheadReader) run(r io.Reader) {
	defer close(a.full)
	for {
		select {
		case <-a.stop:
			return
		case buf := <-a.free:
			n, err := fillBuffer(r, buf)
			a.full <- piece{buf[:n], err} // has room for all buffers
			if err != nil {
				return
			}
		}
	}
}

// fillBuffer reads until buf is full, and gives r's own error, io.EOF included.
func fillBuffer(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.cur.b) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.whole != nil {
			a.free <- a.whole
			a.whole = nil
		}
		next, ok := <-a.full
		if !ok {
			return 0, io.ErrClosedPipe
		}
		a.cur, a.whole = next, next.b[:cap(next.b)]
	}
	n := copy(p, a.cur.b)
	a.cur.b = a.cur.b[n:]
	return n, nil
}

// Close waits for the goroutine. No Read may be under way or follow.
func (a *aheadReader) Close() error {
	close(a.stop)
	a.wg.Wait()
	return nil
}
