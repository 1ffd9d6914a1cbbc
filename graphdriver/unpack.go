// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

const (
	xattrRecord    = "SCHILY.xattr."
	overlayXattrs  = "trusted.overlay."
	opaqueXattr    = overlayXattrs + "opaque"
	whiteoutPrefix = ".wh."
	opaqueMark     = whiteoutPrefix + whiteoutPrefix + ".opq"
)

// unpacker makes the files of an overlay2 layer from the entries of its tar: what Docker's untar makes of them with
// the layer as root directory, whiteouts in overlayfs's own form. But attributes of overlayfs in the tar are left out:
// they would be obeyed.
//
// Every file is made anew, below a directory that is held open, and by its last name alone; see layerDirs for what is
// before that. So nothing that a layer says leads out of it.
type unpacker struct {
	ids     user.IdentityMapping
	dirs    *layerDirs
	file    *openFile // entry that is written
	times   []dirTime // of directories, set when nothing more is put into them
	size    int64     // bytes of all files
	recount bool      // some were there before, or were removed: size is not right
}

type openFile struct {
	entry
	fd int
}

// entry is what is to be made.
type entry struct {
	*tar.Header
	dir      *layerDir
	base     string
	uid, gid int
	mode     uint32
}

type dirTime struct {
	name string
	time []unix.Timespec
}

// newUnpacker unpacks to a directory that exists. close must be called.
func newUnpacker(dir string, ids user.IdentityMapping) (*unpacker, error) {
	dirs, err := openLayerDirs(dir, ids)
	if err != nil {
		return nil, err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		dirs.close()
		return nil, err
	}
	return &unpacker{ids: ids, dirs: dirs, recount: len(names) > 0}, nil
}

// close lets the descriptors go.
func (u *unpacker) close() {
	if u.file != nil {
		unix.Close(u.file.fd)
		u.file = nil
	}
	u.dirs.close()
}

// Begin implements entryWriter.
func (u *unpacker) Begin(hdr *tar.Header) error {
	name := rootedName(hdr.Name)
	if name == "" {
		return nil // the layer's own directory stays as overlay2 made it
	}
	if err := u.begin(hdr, name); err != nil {
		return fmt.Errorf("unpack %q: %w", hdr.Name, err)
	}
	return nil
}

// rootedName is an entry's name as seen from the layer as root directory; "" is that directory.
func rootedName(name string) string { return path.Clean("/" + name)[1:] }

func (u *unpacker) begin(hdr *tar.Header, name string) error {
	uid, gid, err := u.ids.ToHost(hdr.Uid, hdr.Gid)
	if err != nil {
		return err
	}
	dir, base, err := u.dirs.parent(name, true)
	if err != nil {
		return err
	}
	e := entry{hdr, dir, base, uid, gid, uint32(hdr.Mode & 0o7777)}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(&e)
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		fd := -1
		err := u.replace(&e, func() (err error) {
			fd, err = unix.Openat(dir.fd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, e.mode&0o777)
			return err
		})
		if err != nil {
			return err
		}
		u.file = &openFile{e, fd}
		return nil
	case tar.TypeDir:
		return u.mkdir(&e)
	case tar.TypeSymlink:
		err = u.replace(&e, func() error { return unix.Symlinkat(hdr.Linkname, dir.fd, base) })
		u.size += int64(len(hdr.Linkname))
	case tar.TypeLink:
		err = u.replace(&e, func() error { return u.link(&e) })
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = u.mknod(&e)
	default:
		return fmt.Errorf("type %q of entry is not known", hdr.Typeflag)
	}
	if err != nil {
		return err
	}
	return setByName(&e)
}

// Write implements entryWriter.
func (u *unpacker) Write(p []byte) (int, error) {
	if u.file == nil {
		return len(p), nil
	}
	n := 0
	for n < len(p) {
		m, err := unix.Write(u.file.fd, p[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("unpack %q: %w", u.file.Name, err)
		}
		n += m
		u.size += int64(m)
	}
	return n, nil
}

// End implements entryWriter.
func (u *unpacker) End() error {
	f := u.file
	if f == nil {
		return nil
	}
	u.file = nil
	err := errors.Join(setByFd(&f.entry, f.fd), unix.Close(f.fd))
	if err == nil {
		err = utimes(f.dir.fd, f.base, f.times())
	}
	if err != nil {
		return fmt.Errorf("unpack %q: %w", f.Name, err)
	}
	return nil
}

// replace makes something, after removing what is there.
func (u *unpacker) replace(e *entry, make func() error) error {
	err := make()
	if err != unix.EEXIST {
		return err
	}
	if err := u.remove(e); err != nil {
		return err
	}
	return make()
}

// remove takes away what was there before e.
func (u *unpacker) remove(e *entry) error {
	u.recount = true
	u.dirs.forget(e.dir.child(e.base))
	return os.RemoveAll(e.dir.proc(e.base))
}

// whiteout turns one of the image format's into one of overlayfs.
func (u *unpacker) whiteout(e *entry) error {
	if st, err := e.dir.stat(e.base); err == nil && (st.Mode&unix.S_IFMT != unix.S_IFDIR || e.Typeflag != tar.TypeDir) {
		if err := u.remove(e); err != nil {
			return err
		}
	}
	switch hidden := strings.TrimPrefix(e.base, whiteoutPrefix); hidden {
	case "", ".", "..":
		return errors.New("invalid whiteout")
	default:
		if e.base == opaqueMark {
			return unix.Fsetxattr(e.dir.fd, opaqueXattr, []byte("y"), 0)
		}
		if err := unix.Mknodat(e.dir.fd, hidden, unix.S_IFCHR, 0); err != nil {
			return err
		}
		return unix.Fchownat(e.dir.fd, hidden, e.uid, e.gid, unix.AT_SYMLINK_NOFOLLOW)
	}
}

func (u *unpacker) mkdir(e *entry) error {
	err := unix.Mkdirat(e.dir.fd, e.base, e.mode&0o777)
	if err == unix.EEXIST {
		var st *unix.Stat_t
		if st, err = e.dir.stat(e.base); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err = u.remove(e); err == nil {
				err = unix.Mkdirat(e.dir.fd, e.base, e.mode&0o777)
			}
		}
	}
	if err != nil {
		return err
	}
	dir, err := u.dirs.sub(e.dir, e.base, false)
	if err != nil {
		return err
	}
	u.times = append(u.times, dirTime{dir.path, e.times()})
	return setByFd(e, dir.fd)
}

func (u *unpacker) link(e *entry) error {
	target := rootedName(e.Linkname)
	if target == "" {
		return errors.New("hard link to the root directory")
	}
	u.dirs.pinned = e.dir
	defer func() { u.dirs.pinned = nil }()
	dir, base, err := u.dirs.parent(target, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", e.Linkname, err)
	}
	return unix.Linkat(dir.fd, base, e.dir.fd, e.base, 0)
}

func (u *unpacker) mknod(e *entry) error {
	if e.Devmajor < 0 || e.Devmajor > math.MaxUint32 || e.Devminor < 0 || e.Devminor > math.MaxUint32 {
		return fmt.Errorf("device number %d:%d is out of range", e.Devmajor, e.Devminor)
	}
	format := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}
	dev := unix.Mkdev(uint32(e.Devmajor), uint32(e.Devminor))
	return u.replace(e, func() error { return unix.Mknodat(e.dir.fd, e.base, format[e.Typeflag]|e.mode, int(dev)) })
}

// finish ends the unpacking, and returns the bytes of all files, of hard links once.
func (u *unpacker) finish() (int64, error) {
	for _, d := range u.times {
		if err := u.touch(d.name, d.time); err != nil {
			return 0, fmt.Errorf("unpack %q: set time: %w", d.name, err)
		}
	}
	if !u.recount {
		return u.size, nil
	}
	return treeSize(u.dirs.root.proc("."))
}

// touch sets the time of what a directory's name leads to now: the layer may have put something else there.
func (u *unpacker) touch(name string, time []unix.Timespec) error {
	dir, base, err := u.dirs.parent(name, false)
	if err != nil {
		return err
	}
	if u.recount {
		for {
			target, err := dir.readlink(base)
			if err != nil {
				break
			}
			if dir, base, err = u.dirs.followLast(dir, target); err != nil {
				return err
			}
		}
	}
	return utimes(dir.fd, base, time)
}

// treeSize is the size of all that is no directory, of hard links once.
func treeSize(root string) (int64, error) {
	var size int64
	seen := make(map[uint64]bool)
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			size += st.Size
		}
		return nil
	})
	return size, err
}
