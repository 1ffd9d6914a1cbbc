// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"fmt"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setByFd gives an open file or directory its owner, attributes and mode. A mode that has not changed is not set again;
// the others, set later, change it.
func setByFd(e *entry, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != uint32(e.uid) || st.Gid != uint32(e.gid) {
		if err := unix.Fchown(fd, e.uid, e.gid); err != nil {
			return err
		}
	}
	n, err := e.xattrs(func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	if err != nil {
		return err
	}
	if n > 0 || st.Mode&0o7777 != e.mode {
		return unix.Fchmod(fd, e.mode)
	}
	return nil
}

// setByName is setByFd for what can't be opened, and sets the time as well.
func setByName(e *entry) error {
	dir := e.dir
	if err := unix.Fchownat(dir.fd, e.base, e.uid, e.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	_, err := e.xattrs(func(name string, value []byte) error { return unix.Lsetxattr(dir.proc(e.base), name, value, 0) })
	if err != nil {
		return err
	}
	if e.Typeflag != tar.TypeSymlink {
		st, err := dir.stat(e.base)
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return nil // a hard link to a symbolic one leaves it as it is
		}
		if err := dir.chmod(e.base, e.mode); err != nil {
			return err
		}
	}
	return utimes(dir.fd, e.base, e.times())
}

// xattrs calls set for each of the entry's extended attributes, and returns how many there are. What Linux doesn't allow
// on a file of this type is left out.
func (e *entry) xattrs(set func(name string, value []byte) error) (int, error) {
	n := 0
	for key, value := range e.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || strings.HasPrefix(name, overlayXattrs) {
			continue
		}
		n++
		if err := set(name, []byte(value)); err != nil && err != unix.EPERM {
			return n, fmt.Errorf("attribute %q: %w", name, err)
		}
	}
	return n, nil
}

// times are an entry's time of access, which is not before that of modification, and of modification.
func (e *entry) times() []unix.Timespec {
	access := e.ModTime
	if e.AccessTime.After(access) {
		access = e.AccessTime
	}
	return []unix.Timespec{timespec(access), timespec(e.ModTime)}
}

// timespec is the epoch for a time that nanoseconds don't reach, or before the epoch, as in Docker's untar.
func timespec(t time.Time) unix.Timespec {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return unix.Timespec{}
	}
	return unix.NsecToTimespec(t.UnixNano())
}

func utimes(dir int, base string, times []unix.Timespec) error {
	return unix.UtimesNanoAt(dir, base, times, unix.AT_SYMLINK_NOFOLLOW)
}
