// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A socket pair of packets stands for /dev/fuse: one packet is one request or
// one answer, and the end of the other side is the end of the connection.

// kernel is the other side.
type kernel struct {
	t    *testing.T
	fd   int
	uniq uint64
}

func connect(t *testing.T) (*kernel, Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.MemfdCreate("slots", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(mem, SlotsSize); err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: pair[0]}
	c := Conn{Dev: os.NewFile(uintptr(pair[1]), "dev"), Slots: os.NewFile(uintptr(mem), "slots"), Logger: slog.New(slog.DiscardHandler)}
	tv := unix.Timeval{Sec: 10}
	if err := unix.SetsockoptTimeval(k.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	c.Init = k.request(opInit, 0, binary.LittleEndian.AppendUint32(nil, 7), binary.LittleEndian.AppendUint32(nil, 31), make([]byte, 56))
	t.Cleanup(func() {
		unix.Close(k.fd)
		c.Dev.Close()
		c.Slots.Close()
	})
	return k, c
}

// request makes a message.
func (k *kernel) request(op uint32, node uint64, body ...[]byte) []byte {
	k.uniq += 2
	m := make([]byte, headerSize)
	for _, b := range body {
		m = append(m, b...)
	}
	binary.LittleEndian.PutUint32(m, uint32(len(m)))
	binary.LittleEndian.PutUint32(m[inOpcode:], op)
	binary.LittleEndian.PutUint64(m[inUnique:], k.uniq)
	binary.LittleEndian.PutUint64(m[16:], node)
	return m
}

func (k *kernel) send(m []byte) {
	k.t.Helper()
	if _, err := unix.Write(k.fd, m); err != nil {
		k.t.Fatal(err)
	}
}

// answer returns the next answer's number, errno and body.
func (k *kernel) answer() (uint64, unix.Errno, []byte) {
	k.t.Helper()
	buf := make([]byte, 2<<20)
	n, err := unix.Read(k.fd, buf)
	if err != nil || n < outHeaderSize || int(binary.LittleEndian.Uint32(buf)) != n {
		k.t.Fatalf("answer of %d bytes, %v", n, err)
	}
	return binary.LittleEndian.Uint64(buf[8:]), outErrno(buf), buf[outHeaderSize:n]
}

func (k *kernel) want(req []byte, e unix.Errno) []byte {
	k.t.Helper()
	u, got, body := k.answer()
	if u != binary.LittleEndian.Uint64(req[inUnique:]) || got != e {
		k.t.Fatalf("answer to %d: number %d, %v, want %v", binary.LittleEndian.Uint64(req[inUnique:]), u, got, e)
	}
	return body
}

// serve runs Serve until the kernel side is closed.
func serve(t *testing.T, fs fuse.RawFileSystem, c Conn) (end chan error) {
	t.Helper()
	end = make(chan error, 1)
	go func() { end <- Serve(t.Context(), fs, c) }()
	return end
}

const opGetattr, opStatfs, opUnknown = 3, 17, 4000

func TestInitAnswer(t *testing.T) {
	k, c := connect(t)
	serve(t, Broken(), c)
	body := k.want(c.Init, 0)
	flags := binary.LittleEndian.Uint32(body[12:])
	if maxWrite := binary.LittleEndian.Uint32(body[20:]); maxWrite != 4096 {
		t.Errorf("max_write %d", maxWrite)
	}
	if pages := binary.LittleEndian.Uint16(body[28:]); pages != 256 {
		t.Errorf("max_pages %d", pages)
	}
	if flags != 0 && flags&(1<<30) == 0 {
		t.Errorf("flags %#x", flags)
	}
}

func TestSpecialRequests(t *testing.T) {
	k, c := connect(t)
	serve(t, Broken(), c)
	k.want(c.Init, 0)
	k.send(k.request(opForget, 7, make([]byte, 8))) // no answer is due
	for _, x := range []struct {
		op   uint32
		body []byte
		want unix.Errno
	}{
		{opInterrupt, make([]byte, 8), unix.ENOSYS},
		{opUnknown, nil, unix.ENOSYS},
		{opStatfs, nil, unix.EIO},
		{14, make([]byte, 8), unix.ENOSYS},  // OPEN
		{27, make([]byte, 8), unix.ENOSYS},  // OPENDIR
		{34, make([]byte, 8), unix.ENOSYS},  // ACCESS
		{25, make([]byte, 24), unix.ENOSYS}, // FLUSH
	} {
		m := k.request(x.op, 1, x.body)
		k.send(m)
		k.want(m, x.want)
	}
	// A READ larger than any buffer.
	body := make([]byte, 40)
	binary.LittleEndian.PutUint32(body[16:], 1<<31)
	m := k.request(opRead, 1, body)
	k.send(m)
	k.want(m, unix.EIO)
}

// stuck blocks in StatFs until it is released.
type stuck struct {
	fuse.RawFileSystem
	in, out chan struct{}
}

func (s stuck) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status {
	s.in <- struct{}{}
	<-s.out
	return fuse.OK
}

func (s stuck) GetAttr(<-chan struct{}, *fuse.GetAttrIn, *fuse.AttrOut) fuse.Status { return fuse.OK }

func newStuck() stuck {
	return stuck{fuse.NewDefaultRawFileSystem(), make(chan struct{}, MaxThreads), make(chan struct{})}
}

// TestSlowRequestsDoNotBlock: while many requests hang, others are answered.
func TestSlowRequestsDoNotBlock(t *testing.T) {
	k, c := connect(t)
	fs := newStuck()
	end := serve(t, fs, c)
	k.want(c.Init, 0)
	for range MaxThreads - 1 {
		k.send(k.request(opStatfs, 1))
		<-fs.in
	}
	m := k.request(opGetattr, 1, make([]byte, 16))
	k.send(m)
	k.want(m, 0)
	close(fs.out)
	for range MaxThreads - 1 {
		if _, e, _ := k.answer(); e != 0 {
			t.Error(e)
		}
	}
	unix.Shutdown(k.fd, unix.SHUT_RDWR)
	select {
	case err := <-end:
		if err == nil { // a socket's end is no ENODEV
			t.Error("no error at the end")
		}
	case <-time.After(10 * time.Second):
		t.Error("Serve does not end")
	}
}

// TestLeftRequests: what one server has read and not answered, the next one
// answers before anything else; or refuses, if told so.
func TestLeftRequests(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		k, c := connect(t)
		ctx, cancel := context.WithCancel(t.Context())
		first := newStuck()
		end := make(chan error, 1)
		go func() { end <- Serve(ctx, first, c) }()
		k.want(c.Init, 0)
		left := map[uint64]bool{}
		for range 10 {
			m := k.request(opStatfs, 1)
			left[binary.LittleEndian.Uint64(m[inUnique:])] = true
			k.send(m)
			<-first.in
		}
		cancel()
		if err := <-end; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		second := newStuck()
		close(second.out)
		c.Refuse = refuse
		serve(t, second, c)
		k.want(c.Init, 0) // the real kernel says ENOENT to this
		for range 10 {
			u, e, _ := k.answer()
			if !left[u] || (e == unix.EIO) != refuse {
				t.Errorf("refuse %v: answer to %d: %v", refuse, u, e)
			}
			delete(left, u)
		}
		m := k.request(opGetattr, 1, make([]byte, 16))
		k.send(m)
		k.want(m, 0)
	}
}

func TestServeErrors(t *testing.T) {
	_, c := connect(t)
	bad := c
	bad.Init = []byte("short")
	if err := Serve(t.Context(), Broken(), bad); err == nil {
		t.Error("INIT of 5 bytes is taken")
	}
	small, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	bad = c
	bad.Slots = small
	if err := Serve(t.Context(), Broken(), bad); err == nil {
		t.Error("slots of no bytes are taken")
	}
}

// panics panics where go-fuse recovers, and where it does not.
type panics struct{ fuse.RawFileSystem }

func (panics) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status { panic("no") }

func (panics) Read(<-chan struct{}, *fuse.ReadIn, []byte) (fuse.ReadResult, fuse.Status) {
	return panicResult{}, fuse.OK
}

type panicResult struct{}

func (panicResult) Size() int                          { return 10 }
func (panicResult) Done()                              {}
func (panicResult) Bytes([]byte) ([]byte, fuse.Status) { panic("no") }
func (panicResult) Readv([][]byte) (int, fuse.Status)  { panic("no") }

func TestPanicsAreErrors(t *testing.T) {
	k, c := connect(t)
	serve(t, panics{fuse.NewDefaultRawFileSystem()}, c)
	k.want(c.Init, 0)
	body := make([]byte, 40)
	binary.LittleEndian.PutUint32(body[16:], 4096)
	for _, m := range [][]byte{k.request(opStatfs, 1), k.request(opRead, 1, body), k.request(opStatfs, 1)} {
		k.send(m)
		k.want(m, unix.EIO)
	}
}
