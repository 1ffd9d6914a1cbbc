// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// MaxThreads is how many requests one connection answers at a time.
	MaxThreads = 64
	// SlotSize is the length in bytes of one thread's slot.
	SlotSize = 16 << 10
	// SlotsSize is the length in bytes that [Conn.Slots] must have.
	SlotsSize = MaxThreads * SlotSize

	// requestSize is the part of a slot that requests are read into, in
	// bytes. It is the smallest buffer the kernel accepts. The other part
	// holds short answers.
	requestSize = 8 << 10
	// headerSize is the length in bytes of a request's header.
	headerSize = 40
)

// slots maps the shared memory that outlives the process. A request is in
// flight when its slot's first word, the length the kernel wrote, is not zero.
type slots struct {
	mem []byte
	fd  int
}

func mapSlots(f *os.File) (*slots, error) {
	size, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_END)
	if err != nil {
		return nil, fmt.Errorf("slots: %w", err)
	}
	if size < SlotsSize {
		return nil, fmt.Errorf("slots: file of %d bytes, want %d", size, SlotsSize)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, SlotsSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map slots: %w", err)
	}
	return &slots{mem: mem, fd: int(f.Fd())}, nil
}

func (s *slots) close() error { return unix.Munmap(s.mem) }

// request returns the part of slot i that requests are read into.
func (s *slots) request(i int) []byte {
	return s.mem[i*SlotSize:][:requestSize:requestSize]
}

// reply returns the part of slot i that holds short answers.
func (s *slots) reply(i int) []byte {
	return s.mem[i*SlotSize+requestSize:][: SlotSize-requestSize : SlotSize-requestSize]
}

// pending returns the request that was read into slot i and may not be
// answered yet, nil if there is none.
func (s *slots) pending(i int) []byte {
	r := s.request(i)
	n := binary.LittleEndian.Uint32(r)
	if n < headerSize || n > requestSize {
		return nil
	}
	return r[:n]
}

// left reports whether an earlier server left a request in slot i. It reads the
// file: looking into mapped memory would allocate it.
func (s *slots) left(i int) bool {
	var word [4]byte
	n, err := unix.Pread(s.fd, word[:], int64(i)*SlotSize)
	return (err != nil || n == len(word) && binary.LittleEndian.Uint32(word[:]) != 0) && s.pending(i) != nil
}

// clear marks slot i as free. It must precede each read into the slot: a
// process killed before the kernel has written there leaves no request behind.
func (s *slots) clear(i int) { binary.LittleEndian.PutUint32(s.request(i), 0) }

// hold makes the pages of slot i resident. If a page were missing when SIGKILL
// comes during read(2), the kernel would fail that request with EIO.
func (s *slots) hold(i int) { resident(s.mem[i*SlotSize:][:SlotSize]) }

// release gives the memory of slot i back. No request may be pending in it.
func (s *slots) release(i int) {
	mem := s.mem[i*SlotSize:][:SlotSize]
	unix.Munlock(mem)
	if unix.Madvise(mem, unix.MADV_REMOVE) != nil {
		s.clear(i) // then it stays, and is used again
	}
}

// resident brings mem's pages into memory and keeps them there as far as the
// limits of the process allow. Contents are not changed.
func resident(mem []byte) {
	unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	if unix.Madvise(mem, unix.MADV_POPULATE_WRITE) != nil { // before Linux 5.14
		for i := 0; i < len(mem); i += os.Getpagesize() {
			atomic.AddUint32((*uint32)(unsafe.Pointer(&mem[i])), 0) // a write that changes nothing
		}
	}
	unix.Mlock(mem) // refused beyond RLIMIT_MEMLOCK, and needless without swap
}
