// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPacket bounds one packet in bytes. Meta, the largest part, is
	// base64 in it.
	maxPacket = 160 << 10
	// maxFiles bounds the descriptors of one packet (SCM_MAX_FD is 253).
	maxFiles = 64
	// sendTimeout is how long a packet may wait for the peer to read.
	sendTimeout = 10 * time.Second
)

// What a packet is for.
const (
	opHello   = "hello"   // keeper: what follows, and the listeners
	opKept    = "kept"    // keeper: one mount from before, with its files
	opMount   = "mount"   // worker; the reply brings the files
	opReady   = "ready"   // worker
	opUnmount = "unmount" // worker
	opRelease = "release" // worker
	opReply   = "reply"   // keeper: to the request with the same N
)

// packet is one message. Which fields count depends on Op.
type packet struct {
	Op        string
	N         uint64        `json:",omitempty"` // of a request
	Timeout   time.Duration `json:",omitempty"` // of a request; 0: none
	Mounts    int           `json:",omitempty"` // hello: how many kept follow
	Listeners []string      `json:",omitempty"` // hello: names, in the order of the files
	Crashes   int           `json:",omitempty"` // hello: see Client.Crashes
	Error     string        `json:",omitempty"`
	Errno     unix.Errno    `json:",omitempty"`

	Serial   uint64 `json:",omitempty"`
	ID       string `json:",omitempty"`
	Target   string `json:",omitempty"`
	Detached bool   `json:",omitempty"`
	Meta     []byte `json:",omitempty"`
	Init     []byte `json:",omitempty"`
}

// describe puts m into p, and returns the files that go along.
func (p *packet) describe(m *Mount) []*os.File {
	p.Serial, p.ID, p.Target, p.Detached, p.Meta, p.Init = m.Serial, m.ID, m.Target, m.Detached, m.Meta, m.Init
	return []*os.File{m.Dev, m.Slots}
}

// mount is the inverse of describe. It takes the files over.
func (p *packet) mount(files []*os.File) (*Mount, error) {
	if len(files) != 2 {
		closeAll(files)
		return nil, fmt.Errorf("keeper: mount %s with %d files", p.ID, len(files))
	}
	return &Mount{Serial: p.Serial, ID: p.ID, Target: p.Target, Detached: p.Detached, Meta: p.Meta, Init: p.Init,
		Dev: files[0], Slots: files[1]}, nil
}

// link is one end of the pair. One goroutine may receive; sends are not
// concurrent with each other.
type link struct {
	c *net.UnixConn
}

// newLink takes f over.
func newLink(f *os.File) (*link, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("keeper socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("keeper socket: not a unix socket")
	}
	return &link{c: u}, nil
}

func (l *link) send(p *packet, files ...*os.File) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if len(b) > maxPacket {
		return fmt.Errorf("keeper: packet of %d bytes", len(b))
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if err := l.c.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	_, _, err = l.c.WriteMsgUnix(b, rights, nil)
	runtime.KeepAlive(files)
	return err
}

// receive returns the next packet and its files, io.EOF when the peer is gone.
func (l *link) receive(buf []byte) (*packet, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := l.c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	files, err := parseFiles(oob[:oobn])
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("keeper: packet too long")
	case n == 0:
		err = io.EOF
	}
	p := &packet{}
	if err == nil {
		err = json.Unmarshal(buf[:n], p)
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return p, files, nil
}

func parseFiles(oob []byte) ([]*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue // other control messages carry no files
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "kept"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
