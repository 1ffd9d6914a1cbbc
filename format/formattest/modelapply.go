// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"bytes"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// join makes the stand-ins below dir hard links to the lower files that they
// stand for, which take their attributes.
func (m *Model) join(dir string) error {
	return eachDir(dir, func(dir string) error {
		list, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.Type().IsRegular() {
				if err := m.joinFile(path.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (m *Model) joinFile(file string) error {
	var b [4096]byte
	n, err := unix.Lgetxattr(file, modelLower, b[:])
	if err == unix.ENODATA {
		return nil
	}
	if err != nil {
		return err
	}
	target := string(b[:n])
	dir, done, err := openIn(m.Dir, path.Dir(target), false)
	if err != nil {
		return err
	}
	defer done()
	lower := path.Join(dir, path.Base(target))
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return err
	}
	if err := copyXattrs(file, lower, 0); err != nil {
		return err
	}
	if err := unix.Lremovexattr(lower, modelLower); err != nil {
		return err
	}
	if err := unix.Lchown(lower, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(lower, st.Mode&0o7777); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, lower, []unix.Timespec{st.Mtim, st.Mtim}, 0); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil {
		return err
	}
	return os.Link(lower, file)
}

// copyXattrs copies attributes; with XATTR_CREATE those that are there stay.
func copyXattrs(from, to string, flags int) error {
	names, err := xattrNames(from)
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for _, name := range names {
		n, err := unix.Lgetxattr(from, name, value)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(to, name, value[:n], flags); err != nil && err != unix.EEXIST {
			return err
		}
	}
	return nil
}

func xattrNames(file string) ([]string, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, b)
	if err != nil {
		return nil, err
	}
	var names []string
	for name := range bytes.SplitSeq(b[:n], []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names, nil
}

// apply moves what is in upper over lower: whiteouts first, then the rest.
func (m *Model) apply(lower, upper string) error {
	list, err := os.ReadDir(upper)
	if err != nil {
		return err
	}
	for _, e := range list {
		switch name, ok := strings.CutPrefix(e.Name(), ".wh."); {
		case e.Name() == ".wh..wh..opq":
			err = removeChildren(lower)
		case ok:
			err = os.RemoveAll(path.Join(lower, name))
		}
		if err != nil {
			return err
		}
	}
	if err := m.replaceDir(lower, upper); err != nil {
		return err
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".wh.") {
			continue
		}
		from, to := path.Join(upper, e.Name()), path.Join(lower, e.Name())
		old, err := os.Lstat(to)
		if err == nil && !(e.IsDir() && old.IsDir()) {
			err = os.RemoveAll(to)
			old = nil
		}
		switch {
		case err != nil && !os.IsNotExist(err):
		case !e.IsDir():
			err = os.Rename(from, to)
		case old == nil:
			if err = mkdir(to); err == nil {
				err = m.apply(to, from)
			}
		default:
			err = m.apply(to, from)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replaceDir gives a directory the attributes of the upper one, if its layer
// lists it.
func (m *Model) replaceDir(lower, upper string) error {
	if _, err := unix.Lgetxattr(upper, modelMtime, nil); err == unix.ENODATA {
		return nil
	}
	names, err := xattrNames(lower)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := unix.Lremovexattr(lower, name); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(upper, &st); err != nil {
		return err
	}
	if err := unix.Lchown(lower, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(lower, st.Mode&0o7777); err != nil {
		return err
	}
	return copyXattrs(upper, lower, 0)
}

func removeChildren(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := os.RemoveAll(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
