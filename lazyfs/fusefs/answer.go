// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Operations that the loop itself must know (enum fuse_opcode).
const (
	opForget      = 2
	opRead        = 15
	opGetxattr    = 22
	opListxattr   = 23
	opInit        = 26
	opReaddir     = 28
	opInterrupt   = 36
	opBatchForget = 42
	opReaddirplus = 44
)

// Byte offsets in messages (struct fuse_in_header, fuse_read_in,
// fuse_getxattr_in, fuse_out_header, fuse_init_out).
const (
	inOpcode       = 4
	inUnique       = 8
	inGetxattrSize = headerSize
	inReadSize     = headerSize + 16
	outHeaderSize  = 16
	outError       = 4
	outMaxWrite    = outHeaderSize + 20
)

// initMaxWrite is the max_write told to the kernel, in bytes. It bounds the
// requests, and with them the slots; the longest READ follows from max_pages.
const initMaxWrite = 4096

// newProtocolServer translates between messages and fs. Every server of a
// connection must be made alike: the kernel sees only the first INIT answer.
func newProtocolServer(fs fuse.RawFileSystem, logger *slog.Logger) *fuse.ProtocolServer {
	return fuse.NewProtocolServer(fs, &fuse.MountOptions{
		MaxWrite:                 maxPayload,
		MaxBackground:            MaxThreads,
		ExplicitDataCacheControl: true, // nothing changes: cached pages stay
		EnableSymlinkCaching:     true,
		EnableAcl:                true,
		ExtraCapabilities: fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_READDIRPLUS_AUTO |
			fuse.CAP_EXPORT_SUPPORT,
		// Passthrough would give the mount a stack depth, which EROFS and
		// overlayfs count.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		Logger:               log.New(logWriter{logger}, "", 0),
	})
}

// logWriter hands go-fuse's lines on.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("fuse", "message", string(p))
	return len(p), nil
}

// answerInit tells the protocol server the kernel's INIT request, and the
// kernel the answer. ENOENT means that an earlier server has done the latter.
func (s *server) answerInit(req []byte) error {
	if len(req) < headerSize || binary.LittleEndian.Uint32(req[inOpcode:]) != opInit {
		return fmt.Errorf("request of %d bytes is none", len(req))
	}
	out := make([]byte, 4096)
	resident(out) // as for any answer
	n, status := s.ps.HandleRequest([][]byte{req}, [][]byte{out})
	if !status.Ok() || n < outMaxWrite+4 || binary.LittleEndian.Uint32(out[outError:]) != 0 {
		return fmt.Errorf("protocol refused: %v", status)
	}
	binary.LittleEndian.PutUint32(out[outMaxWrite:], initMaxWrite)
	if _, err := unix.Write(s.dev, out[:n]); err != nil && err != unix.ENOENT {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// errLeft ends a thread whose request is left to the next server.
var errLeft = errors.New("request left in its slot")

// answer handles one request, which lies in slot i. An error ends the thread.
func (s *server) answer(req []byte, i int) error {
	switch binary.LittleEndian.Uint32(req[inOpcode:]) {
	case opForget, opBatchForget:
		return nil // nothing is remembered, and no answer is due
	case opInterrupt:
		// Only ENOSYS makes the kernel stop: on EAGAIN it asks for ever.
		return s.write(s.fail(req, i, unix.ENOSYS))
	}
	out := s.slots.reply(i)
	if need := payload(req) + replyOverhead; need > len(out) {
		pool := poolFor(need)
		if pool == nil {
			return s.write(s.fail(req, i, unix.EIO))
		}
		b, err := pool.get()
		if err != nil {
			s.log.Error("no memory for an answer", "bytes", need, "error", err)
			return s.write(s.fail(req, i, unix.ENOMEM))
		}
		defer pool.put(b)
		out = b
	}
	n, ok := s.handle(req, out)
	if s.ctx.Err() != nil && (!ok || n > 0 && outErrno(out) == unix.EIO) {
		return errLeft // given up, not failed
	}
	if !ok {
		return s.write(s.fail(req, i, unix.EIO))
	}
	if n == 0 {
		return nil
	}
	err := s.write(out[:n])
	if err == nil || errors.Is(err, unix.ENODEV) {
		return err
	}
	// The kernel found no sense in the answer; whoever waits must not hang.
	s.log.Error("answer refused", "opcode", binary.LittleEndian.Uint32(req[inOpcode:]), "bytes", n, "error", err)
	return s.write(s.fail(req, i, unix.EIO))
}

// reject answers one request with EIO, if an answer is due.
func (s *server) reject(req []byte, i int) error {
	op := binary.LittleEndian.Uint32(req[inOpcode:])
	if op == opForget || op == opBatchForget {
		return nil
	}
	s.log.Error("request refused: servers crashed with it", "opcode", op)
	return s.write(s.fail(req, i, unix.EIO))
}

// handle lets the file system answer req into out.
func (s *server) handle(req, out []byte) (n int, ok bool) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic while answering", "opcode", binary.LittleEndian.Uint32(req[inOpcode:]),
				"panic", r, "stack", string(debug.Stack()))
			n, ok = 0, false
		}
	}()
	n, status := s.ps.HandleRequest([][]byte{req}, [][]byte{out})
	return n, status.Ok()
}

// payload returns how many bytes of data req asks for.
func payload(req []byte) int {
	at := 0
	switch binary.LittleEndian.Uint32(req[inOpcode:]) {
	case opRead, opReaddir, opReaddirplus:
		at = inReadSize
	case opGetxattr, opListxattr:
		at = inGetxattrSize
	default:
		return 0
	}
	if len(req) < at+4 {
		return 0
	}
	return int(binary.LittleEndian.Uint32(req[at:]))
}

// fail makes an answer that holds nothing but e, in the reply part of slot i.
func (s *server) fail(req []byte, i int, e unix.Errno) []byte {
	out := s.slots.reply(i)[:outHeaderSize]
	binary.LittleEndian.PutUint32(out, outHeaderSize)
	binary.LittleEndian.PutUint32(out[outError:], uint32(-int32(e)))
	copy(out[8:], req[inUnique:inUnique+8])
	return out
}

func outErrno(out []byte) unix.Errno {
	return unix.Errno(-int32(binary.LittleEndian.Uint32(out[outError:])))
}

// write sends an answer. One that nobody waits for any more is no error.
func (s *server) write(out []byte) error {
	for {
		_, err := unix.Write(s.dev, out)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EINTR, unix.EAGAIN:
			continue
		}
		return fmt.Errorf("write answer: %w", err)
	}
}
