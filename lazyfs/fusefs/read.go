// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"errors"
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"lighter/format"
)

// Read implements READ.
func (t *tree) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	ino, status := t.inode("read", in.NodeId)
	if !status.Ok() {
		return nil, status
	}
	if ino.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fuse.EINVAL
	}
	n := int64(min(uint64(in.Size), uint64(len(buf))))
	if in.Offset >= uint64(ino.Size) {
		n = 0
	} else {
		n = min(n, ino.Size-int64(in.Offset))
	}
	return &fileRange{t: t, node: in.NodeId, ino: ino, off: int64(in.Offset), n: int(n)}, fuse.OK
}

// fileRange is the result of a READ: it is read straight into the answer.
type fileRange struct {
	t    *tree
	node uint64
	ino  format.Inode
	off  int64 // bytes
	n    int   // bytes, all of them below the file's end
}

func (r *fileRange) Size() int { return r.n }
func (r *fileRange) Done()     {}

func (r *fileRange) Bytes(buf []byte) ([]byte, fuse.Status) {
	buf = buf[:r.n]
	n, status := r.Readv([][]byte{buf})
	return buf[:n], status
}

// Readv fills dst, which has room for exactly the range. It is all or
// nothing: the kernel takes a short answer for the file's end.
func (r *fileRange) Readv(dst [][]byte) (int, fuse.Status) {
	done := 0
	for _, p := range dst {
		n, err := r.t.im.ReadAt(context.Background(), r.ino, p, r.off+int64(done))
		if n < len(p) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, r.t.damage("read", r.node, err)
		}
		done += n
	}
	return done, fuse.OK
}
