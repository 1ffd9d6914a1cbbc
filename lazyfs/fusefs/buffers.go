// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// maxPayload is the longest answer of a READ in bytes: 256 pages of 4 KiB.
	maxPayload = 1 << 20
	// replyOverhead is room in bytes for everything in an answer but its payload.
	replyOverhead = 4 << 10
)

// bufferPool lends resident memory for answers of one length. Heap memory does
// not do: a page that is missing when SIGKILL hits write(2) makes the kernel
// fail the request with EIO.
type bufferPool struct {
	size int // bytes
	keep int // most buffers that are kept while nobody uses them

	mu   sync.Mutex
	free [][]byte
}

// replyPools serve all connections of the process, shortest buffers first.
// Kept without use: at most 32 × 132 KiB + 4 × 1 MiB.
var replyPools = [...]*bufferPool{
	{size: 128<<10 + replyOverhead, keep: 32},
	{size: maxPayload + replyOverhead, keep: 4},
}

// poolFor returns the pool whose buffers take n bytes, nil if none does.
func poolFor(n int) *bufferPool {
	for _, p := range replyPools {
		if n <= p.size {
			return p
		}
	}
	return nil
}

func (p *bufferPool) get() ([]byte, error) {
	p.mu.Lock()
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		p.mu.Unlock()
		return b, nil
	}
	p.mu.Unlock()
	b, err := unix.Mmap(-1, 0, p.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	resident(b)
	return b, nil
}

func (p *bufferPool) put(b []byte) {
	p.mu.Lock()
	if len(p.free) < p.keep {
		p.free = append(p.free, b)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	unix.Munmap(b)
}
