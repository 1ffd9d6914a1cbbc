// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"fmt"
	"path"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

const (
	dirsOpen  = 128  // directories held open
	linksMost = 40   // symbolic links followed for one name, as Linux does
	nameMost  = 4095 // bytes of a name, as Linux has it
)

// layerDirs finds the directories of a layer by name, as a process would that has the layer as its root directory. It
// takes one step at a time from a directory that it holds open, and follows symbolic links itself: no name and no link
// leads out of the layer, also while somebody changes it.
//
// Nobody but the owner may remove directories meanwhile, who must tell it.
type layerDirs struct {
	ids    user.IdentityMapping
	root   *layerDir
	open   map[string]*layerDir // by their paths; without root
	links  int                  // followed for the name at hand
	pinned *layerDir            // stays open
}

// layerDir is an open directory of the layer.
type layerDir struct {
	fd   int
	path string // from the layer's root, without symbolic links; "" for the root
}

func openLayerDirs(root string, ids user.IdentityMapping) (*layerDirs, error) {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	return &layerDirs{ids: ids, root: &layerDir{fd: fd}, open: make(map[string]*layerDir)}, nil
}

func (l *layerDirs) close() {
	for _, d := range l.open {
		unix.Close(d.fd)
	}
	unix.Close(l.root.fd)
}

// parent returns the directory that a rooted name lies in, and the last part of the name. With create, directories that
// are missing are made. The directory stays open until the next call.
func (l *layerDirs) parent(name string, create bool) (*layerDir, string, error) {
	if len(name) > nameMost {
		return nil, "", fmt.Errorf("name of %d bytes: %w", len(name), unix.ENAMETOOLONG)
	}
	l.links = 0
	dir, base := split(name)
	d, err := l.dir(dir, create)
	return d, base, err
}

func split(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}

// dir returns the directory of a rooted name.
func (l *layerDirs) dir(name string, create bool) (*layerDir, error) {
	if name == "" {
		return l.root, nil
	}
	if d := l.open[name]; d != nil {
		return d, nil
	}
	dir, base := split(name)
	up, err := l.dir(dir, create)
	if err != nil {
		return nil, err
	}
	return l.sub(up, base, create)
}

// sub returns a directory in another one.
func (l *layerDirs) sub(up *layerDir, base string, create bool) (*layerDir, error) {
	name := up.child(base)
	if d := l.open[name]; d != nil {
		return d, nil
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(up.fd, base, flags, 0)
	made := false
	if err == unix.ENOENT && create {
		if err := unix.Mkdirat(up.fd, base, 0o755); err != nil {
			return nil, err
		}
		made = true
		fd, err = unix.Openat(up.fd, base, flags, 0)
	}
	if err == unix.ENOTDIR || err == unix.ELOOP {
		target, linkErr := up.readlink(base)
		if linkErr != nil {
			return nil, unix.ENOTDIR
		}
		return l.follow(up, target, create)
	}
	if err != nil {
		return nil, err
	}
	d := &layerDir{fd, name}
	l.hold(d, up)
	if made {
		uid, gid := l.ids.RootPair()
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return nil, err
		}
		return d, unix.Fchmod(fd, 0o755)
	}
	return d, nil
}

// follow returns the directory that a symbolic link in up leads to.
func (l *layerDirs) follow(up *layerDir, target string, create bool) (*layerDir, error) {
	if l.links++; l.links > linksMost {
		return nil, unix.ELOOP
	}
	d := up
	if strings.HasPrefix(target, "/") {
		d = l.root
	}
	for step := range strings.SplitSeq(target, "/") {
		var err error
		switch step {
		case "", ".":
		case "..":
			above, _ := split(d.path)
			d, err = l.dir(above, false)
		default:
			d, err = l.sub(d, step, create)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, nil
}

// followLast is follow for all of target but its last part, which may be no directory.
func (l *layerDirs) followLast(up *layerDir, target string) (*layerDir, string, error) {
	dir, base := path.Split(strings.TrimRight(target, "/"))
	if base == "" || base == "." || base == ".." {
		d, err := l.follow(up, target, false)
		return d, ".", err
	}
	d, err := l.follow(up, dir, false)
	return d, base, err
}

// hold keeps a directory open. There must not be too many: all others go but the one that it was found in.
func (l *layerDirs) hold(d, up *layerDir) {
	if len(l.open) >= dirsOpen {
		for name, old := range l.open {
			if old != up && old != l.pinned {
				unix.Close(old.fd)
				delete(l.open, name)
			}
		}
	}
	l.open[d.path] = d
}

// forget closes a directory and all below it.
func (l *layerDirs) forget(name string) {
	for p, d := range l.open {
		if p == name || strings.HasPrefix(p, name+"/") {
			unix.Close(d.fd)
			delete(l.open, p)
		}
	}
}

// child is the path of what is in the directory.
func (d *layerDir) child(base string) string {
	if d.path == "" {
		return base
	}
	return d.path + "/" + base
}

// proc is a path by which the kernel finds what is in the directory, whatever lies above it.
func (d *layerDir) proc(base string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, base) }

func (d *layerDir) stat(base string) (*unix.Stat_t, error) {
	st := new(unix.Stat_t)
	return st, unix.Fstatat(d.fd, base, st, unix.AT_SYMLINK_NOFOLLOW)
}

func (d *layerDir) readlink(base string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd, base, b)
	return string(b[:max(n, 0)]), err
}

// chmod sets the mode of what is no symbolic link, and can't be opened.
func (d *layerDir) chmod(base string, mode uint32) error {
	fd, err := unix.Openat(d.fd, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}
