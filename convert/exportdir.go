// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lighter/format"
)

// ExportDir writes an image's tree into a directory that is empty or missing.
// All bytes are verified; runs of zeros become holes. Owners, devices and
// attributes need root: others are refused.
func ExportDir(ctx context.Context, dir string, b *format.Bootstrap, open format.OpenBlob) (*Exported, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%s: only root can set owners and make devices (hint: --tar)", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%s: not empty", dir))
	}
	c := b.Content(open)
	defer c.Close()
	e := &dirExporter{ctx: ctx, dir: dir, b: b, c: c, names: map[uint64]string{}, buf: make([]byte, 1<<20)}
	if err := walk(b, e.entry); err != nil {
		return nil, err
	}
	for k := len(e.times) - 1; k >= 0; k-- { // made a directory's time now: its children
		if err := setTime(e.times[k].file, e.times[k].i); err != nil {
			return nil, err
		}
	}
	return &e.done, nil
}

type dirExporter struct {
	ctx   context.Context
	dir   string
	b     *format.Bootstrap
	c     *format.Content
	names map[uint64]string // first file of inodes with several names
	times []dirTime
	buf   []byte
	done  Exported
}

type dirTime struct {
	file string
	i    format.Inode
}

func (e *dirExporter) entry(p string, i format.Inode) error {
	if err := e.ctx.Err(); err != nil {
		return err
	}
	file := filepath.Join(e.dir, p)
	e.done.Entries++
	if i.Nlink > 1 && !i.IsDir() {
		if first, again := e.names[i.Nid]; again {
			return os.Link(first, file)
		}
		e.names[i.Nid] = file
	}
	if err := e.create(p, file, i); err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	if err := e.attributes(file, i); err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	if i.IsDir() {
		e.times = append(e.times, dirTime{file, i})
		return nil
	}
	return setTime(file, i)
}

func (e *dirExporter) create(p, file string, i format.Inode) error {
	switch i.Mode & format.ModeType {
	case format.ModeDir:
		if p == "" {
			return nil
		}
		return os.Mkdir(file, 0o700)
	case format.ModeRegular:
		e.done.Bytes += i.Size
		return e.content(file, i)
	case format.ModeSymlink:
		to, err := e.b.Readlink(i)
		if err != nil {
			return err
		}
		return os.Symlink(to, file)
	}
	return unix.Mknod(file, i.Mode&format.ModeType|0o600, int(unix.Mkdev(i.Major(), i.Minor())))
}

// content fills a new file. Where a whole buffer is zero, a hole stays.
func (e *dirExporter) content(file string, i format.Inode) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(i.Size); err != nil {
		return err
	}
	for off := int64(0); off < i.Size; {
		n, err := e.c.ReadAt(i, e.buf[:min(int64(len(e.buf)), i.Size-off)], off)
		if err != nil && err != io.EOF {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if p := e.buf[:n]; len(bytes.TrimLeft(p, "\x00")) > 0 {
			if _, err := f.WriteAt(p, off); err != nil {
				return err
			}
		}
		off += int64(n)
	}
	return nil
}

func (e *dirExporter) attributes(file string, i format.Inode) error {
	if err := os.Lchown(file, int(i.UID), int(i.GID)); err != nil {
		return err
	}
	xattrs, err := e.b.Xattrs(i)
	if err != nil {
		return err
	}
	for _, x := range xattrs {
		if err := unix.Lsetxattr(file, x.Name, x.Value, 0); err != nil {
			return fmt.Errorf("attribute %s: %w", x.Name, err)
		}
	}
	if i.IsSymlink() {
		return nil
	}
	return unix.Chmod(file, i.Mode&0o7777)
}

func setTime(file string, i format.Inode) error {
	t := unix.Timespec{Sec: i.Mtime, Nsec: int64(i.MtimeNsec)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: time: %w", file, err)
	}
	return nil
}
