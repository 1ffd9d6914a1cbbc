// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"lighter/format"
)

// Image is what is presented. Both methods may be called concurrently.
type Image interface {
	Bootstrap() *format.Bootstrap
	// ReadAt reads verified bytes of a regular file at byte off, within a
	// deadline of its own. Fewer bytes than asked, and below the file's end,
	// come with an error.
	ReadAt(ctx context.Context, ino format.Inode, p []byte, off int64) (int, error)
}

// Options of a file system. The zero value is the default.
type Options struct {
	// Logger receives failures that users see as EIO. Nil: slog's default.
	Logger *slog.Logger
}

const (
	// forever, in seconds, is how long the kernel may keep names and
	// attributes: nothing in an image changes.
	forever = 365 * 24 * 3600
	// generation of every node: an inode number is never used again.
	generation = 1
	// blockSize, in bytes, is told in st_blksize and statfs.
	blockSize = 4096
	// maxName is the longest name that a directory can hold, in bytes.
	maxName = 255
	// maxLink is the longest symbolic link that the kernel takes, in bytes.
	maxLink = 4095
)

// New presents im. The result keeps no state, so that two processes which
// serve one connection after each other give the same answers. It is safe for
// concurrent use, and read-only.
func New(im Image, o Options) fuse.RawFileSystem {
	t := &tree{
		unopened: newUnopened(),
		im:       im,
		b:        im.Bootstrap(),
		log:      o.Logger,
	}
	t.root = t.b.Info().RootNid
	if t.log == nil {
		t.log = slog.Default()
	}
	return t
}

// tree answers what an image has, and ENOSYS to the rest.
type tree struct {
	unopened
	im   Image
	b    *format.Bootstrap
	root uint64 // nid
	log  *slog.Logger

	logged   atomic.Int64 // when a failure was logged last, in Unix nanoseconds
	unlogged atomic.Int64 // failures since then
}

// FUSE gives the root node id 1, and id 0 means "no such file". Every other
// node's id is its nid plus 2, which can be neither.

func (t *tree) node(nid uint64) uint64 {
	if nid == t.root {
		return fuse.FUSE_ROOT_ID
	}
	return nid + 2
}

func (t *tree) nid(node uint64) uint64 {
	if node == fuse.FUSE_ROOT_ID {
		return t.root
	}
	return node - 2
}

// inode returns the inode of a node id. The kernel knows only ids that it was
// given, so whatever goes wrong is damage.
func (t *tree) inode(op string, node uint64) (format.Inode, fuse.Status) {
	ino, err := t.b.Inode(t.nid(node))
	if err != nil {
		return ino, t.damage(op, node, err)
	}
	return ino, fuse.OK
}

// damage logs err, and returns what the user sees of it. A store that is away
// makes many requests fail: at most one a second is logged.
func (t *tree) damage(op string, node uint64, err error) fuse.Status {
	now := time.Now().UnixNano()
	last := t.logged.Load()
	if now-last < int64(time.Second) || !t.logged.CompareAndSwap(last, now) {
		t.unlogged.Add(1)
		return fuse.EIO
	}
	t.log.Warn("file system request failed", "op", op, "nid", t.nid(node), "error", err, "more", t.unlogged.Swap(0))
	return fuse.EIO
}

// Lookup implements LOOKUP. An absent name is an answer that the kernel may
// keep, like any other. "." and ".." come from file handles (name_to_handle_at).
func (t *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if len(name) > maxName {
		return fuse.Status(unix.ENAMETOOLONG)
	}
	dir, status := t.inode("lookup", h.NodeId)
	if !status.Ok() {
		return status
	}
	if name == "." {
		t.entry(dir, out)
		return fuse.OK
	}
	if dir.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fuse.ENOTDIR
	}
	nid, err := t.b.Lookup(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		out.EntryValid = forever
		return fuse.OK
	}
	if err != nil {
		return t.damage("lookup", h.NodeId, err)
	}
	ino, err := t.b.Inode(nid)
	if err != nil {
		return t.damage("lookup", h.NodeId, err)
	}
	t.entry(ino, out)
	return fuse.OK
}

// GetAttr implements GETATTR.
func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	ino, status := t.inode("getattr", in.NodeId)
	if !status.Ok() {
		return status
	}
	out.AttrValid = forever
	attr(ino, &out.Attr)
	return fuse.OK
}

// Readlink implements READLINK.
func (t *tree) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	ino, status := t.inode("readlink", h.NodeId)
	if !status.Ok() {
		return nil, status
	}
	if ino.Mode&unix.S_IFMT != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	target, err := t.b.Readlink(ino)
	if err != nil {
		return nil, t.damage("readlink", h.NodeId, err)
	}
	if len(target) > maxLink {
		return nil, fuse.Status(unix.ENAMETOOLONG)
	}
	return []byte(target), fuse.OK
}

// StatFs implements STATFS: as large as the image's data, and full.
func (t *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	info := t.b.Info()
	size := uint64(info.Size)
	for _, bl := range t.b.Blobs() {
		size += bl.UncompressedSize
	}
	*out = fuse.StatfsOut{
		Blocks:  (size + blockSize - 1) / blockSize,
		Files:   info.Inodes,
		Bsize:   blockSize,
		Frsize:  blockSize,
		NameLen: maxName,
	}
	return fuse.OK
}

// entry fills in the answer to a lookup that found ino.
func (t *tree) entry(ino format.Inode, out *fuse.EntryOut) {
	out.NodeId = t.node(ino.Nid)
	out.Generation = generation
	out.EntryValid = forever
	out.AttrValid = forever
	attr(ino, &out.Attr)
}

// attr fills in the attributes of ino. st_ino is the nid, as the kernel's own
// EROFS shows it: a v6 image has the same numbers under both.
func attr(ino format.Inode, a *fuse.Attr) {
	*a = fuse.Attr{
		Ino:       ino.Nid,
		Size:      uint64(ino.Size),
		Blocks:    (uint64(ino.Size) + 511) / 512,
		Atime:     uint64(ino.Mtime),
		Mtime:     uint64(ino.Mtime),
		Ctime:     uint64(ino.Mtime),
		Atimensec: ino.MtimeNsec,
		Mtimensec: ino.MtimeNsec,
		Ctimensec: ino.MtimeNsec,
		Mode:      ino.Mode,
		Nlink:     ino.Nlink,
		Owner:     fuse.Owner{Uid: ino.UID, Gid: ino.GID},
		Rdev:      ino.Rdev,
		Blksize:   blockSize,
	}
}
