// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// overlayStack keeps the layers of a Model as the kernel's overlayfs wants
// them: an independent witness of how layers apply.
type overlayStack struct {
	dir    string
	layers []string // the lowest first
	linked bool     // a layer links to a file below: overlayfs has no such layers
}

// keep copies the layer that the model is about to apply.
func (s *overlayStack) keep(m *Model) error {
	s.linked = s.linked || len(m.standIns) > 0
	to := path.Join(s.dir, strconv.Itoa(len(s.layers)))
	s.layers = append(s.layers, to)
	if out, err := exec.Command("cp", "-a", m.layer, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return overlayDir(to, m.Dir)
}

// overlayDir turns the OCI whiteouts in dir into those of overlayfs. lower is
// the same directory of the layers below, "" if there is none: a directory
// that the layer does not list takes its attributes.
func overlayDir(dir, lower string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	removed := map[string]bool{}
	for _, e := range list {
		name, ok := strings.CutPrefix(e.Name(), ".wh.")
		if !ok {
			continue
		}
		if err := os.RemoveAll(path.Join(dir, e.Name())); err != nil {
			return err
		}
		switch {
		case e.Name() == ".wh..wh..opq":
			// Not the mark of overlayfs for this: it ignores that at the root.
			below, err := os.ReadDir(lower)
			if lower != "" && err != nil {
				return err
			}
			for _, b := range below {
				removed[b.Name()] = true
			}
		case name != "" && !strings.HasPrefix(name, ".wh."):
			removed[name] = true
		}
	}
	for name := range removed {
		if err := overlayWhiteout(path.Join(dir, name), path.Join(lower, name), lower != ""); err != nil {
			return err
		}
	}
	for _, e := range list {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".wh.") {
			continue
		}
		below := ""
		if lower != "" && !removed[e.Name()] {
			below = path.Join(lower, e.Name())
			if st, err := os.Lstat(below); err != nil || !st.IsDir() {
				below = ""
			}
		}
		if err := overlayDir(path.Join(dir, e.Name()), below); err != nil {
			return err
		}
	}
	return overlayAttributes(dir, lower)
}

// overlayWhiteout hides what lower layers have at file; what the layer itself
// has there stays. Where there is nothing to hide, it makes nothing: readdir
// shows whiteouts in directories of a single layer.
func overlayWhiteout(file, below string, mayHave bool) error {
	st, err := os.Lstat(file)
	switch {
	case err == nil && st.IsDir():
		return unix.Setxattr(file, "trusted.overlay.opaque", []byte("y"), 0)
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	if _, err := os.Lstat(below); !mayHave || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return unix.Mknod(file, unix.S_IFCHR, 0)
}

func overlayAttributes(dir, lower string) error {
	from := dir
	if _, err := unix.Lgetxattr(dir, modelMtime, nil); err == unix.ENODATA && lower != "" {
		from = lower
		var st unix.Stat_t
		if err := errors.Join(unix.Lstat(lower, &st), unix.Lchown(dir, int(st.Uid), int(st.Gid)),
			unix.Chmod(dir, st.Mode&0o7777), copyXattrs(lower, dir, 0)); err != nil {
			return err
		}
	}
	ns, err := getTime(from)
	if err != nil {
		return err
	}
	if err := unix.Lremovexattr(dir, modelMtime); err != nil && err != unix.ENODATA {
		return err
	}
	return setTime(dir, time.Unix(0, ns))
}

// ListOverlay lists what overlayfs shows of the layers so far. Link counts
// are left out: overlayfs has those of the layer. ok is false if overlayfs
// cannot have these layers.
func (m *Model) ListOverlay() (l Listing, ok bool, err error) {
	s := m.overlay
	if s.linked {
		return nil, false, nil
	}
	empty, target := path.Join(s.dir, "empty"), path.Join(s.dir, "mnt")
	if err := errors.Join(os.Mkdir(empty, 0o755), os.Mkdir(target, 0o755)); err != nil {
		return nil, false, err
	}
	lower := append([]string{empty}, s.layers...)
	slices.Reverse(lower)
	if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		return nil, false, fmt.Errorf("mount overlay: %w", err)
	}
	l, err = ListDir(target)
	return l.WithoutLinks(), true, errors.Join(err, unix.Unmount(target, unix.MNT_DETACH))
}

// WithoutLinks returns the listing without link counts.
func (l Listing) WithoutLinks() Listing {
	l = slices.Clone(l)
	for i := range l {
		l[i].Nlink = 0
	}
	return l
}
