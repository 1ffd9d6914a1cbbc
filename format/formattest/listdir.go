// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ListDir lists a directory tree of the running system.
func ListDir(root string) (Listing, error) { return listDir(root, false) }

// ListOverlayDir is ListDir without names that cannot be looked up: overlayfs
// lists whiteouts where a directory has no counterpart below.
func ListOverlayDir(root string) (Listing, error) { return listDir(root, true) }

func listDir(root string, skipGone bool) (Listing, error) {
	var l Listing
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && skipGone {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := statEntry(path, strings.TrimPrefix(strings.TrimPrefix(path, root), "/"))
		if errors.Is(err, fs.ErrNotExist) && skipGone {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		l = append(l, e)
		return nil
	})
	return l.sorted(), err
}

func statEntry(path, name string) (Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Entry{}, err
	}
	rdev := unix.Minor(st.Rdev)&0xff | unix.Major(st.Rdev)<<8 | unix.Minor(st.Rdev)&^0xff<<12
	e := newEntry(name, st.Mode, st.Uid, st.Gid, uint32(st.Nlink), rdev, st.Size, st.Mtim.Sec)
	e.Nsec = uint32(st.Mtim.Nsec)
	var err error
	switch e.Type {
	case "f":
		e.SHA256, err = fileDigest(path)
	case "l":
		e.Link, err = os.Readlink(path)
		e.Link = Escape(e.Link)
	}
	return e, errors.Join(err, e.readXattrs(path))
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

func (e *Entry) readXattrs(path string) error {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if err == unix.ENOTSUP {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for name := range bytes.SplitSeq(names[:n], []byte{0}) {
		if len(name) == 0 {
			continue
		}
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return fmt.Errorf("xattr %q: %w", name, err)
		}
		e.setXattr(string(name), value[:n])
	}
	return nil
}
