// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"io"
	"sync"
)

const (
	pipeBlock  = 256 << 10 // bytes
	pipeBlocks = 8
)

// blockPipe hands a stream from one goroutine to another in large blocks. io.Pipe would wake the reader for every write;
// here the reader is a goroutine bound to its thread (Docker's untar), for which each wake is a thread switch.
//
// One goroutine writes and closes, one reads and stops.
type blockPipe struct {
	full    chan []byte
	free    chan []byte
	stopped chan struct{} // closed by stop: the reader wants no more
	once    sync.Once
	failed  error  // why the reader stopped early; set before stopped is closed
	cur     []byte // writer's block
	err     error  // set before full is closed
	rest    []byte // reader's block, what is left of it
	restBuf []byte
}

func newBlockPipe() *blockPipe {
	p := &blockPipe{
		full:    make(chan []byte, pipeBlocks),
		free:    make(chan []byte, pipeBlocks+2),
		stopped: make(chan struct{}),
	}
	for range pipeBlocks {
		p.free <- nil
	}
	return p
}

// write never fails: what is written after stop is dropped.
func (p *blockPipe) write(b []byte) {
	for len(b) > 0 {
		if p.cur == nil {
			select {
			case p.cur = <-p.free:
			case <-p.stopped:
				return
			}
			if p.cur == nil {
				p.cur = make([]byte, 0, pipeBlock)
			}
			p.cur = p.cur[:0]
		}
		n := min(len(b), pipeBlock-len(p.cur))
		p.cur = append(p.cur, b[:n]...)
		b = b[n:]
		if len(p.cur) == pipeBlock {
			p.flush()
		}
	}
}

func (p *blockPipe) flush() {
	if len(p.cur) > 0 {
		select {
		case p.full <- p.cur:
		case <-p.stopped:
		}
		p.cur = nil
	}
}

// close ends the stream; the reader gets err, or io.EOF if that is nil, after the last byte.
func (p *blockPipe) close(err error) {
	p.flush()
	p.err = err
	close(p.full)
}

// Read implements io.Reader.
func (p *blockPipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.restBuf != nil {
			p.free <- p.restBuf
			p.restBuf = nil
		}
		block, ok := <-p.full
		if !ok {
			if p.err != nil {
				return 0, p.err
			}
			return 0, io.EOF
		}
		p.rest, p.restBuf = block, block
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// stop tells the writer that nobody reads any more.
func (p *blockPipe) stop() { p.once.Do(func() { close(p.stopped) }) }

// fail is stop for a reader that could not go on.
func (p *blockPipe) fail(err error) {
	p.once.Do(func() {
		p.failed = err
		close(p.stopped)
	})
}

// readerErr is why the reader gave up, nil while it reads or when it only wants no more.
func (p *blockPipe) readerErr() error {
	select {
	case <-p.stopped:
		return p.failed
	default:
		return nil
	}
}
