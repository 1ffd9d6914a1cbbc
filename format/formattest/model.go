// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Attributes by which the model remembers what a directory cannot say itself.
const (
	modelMtime = "trusted.model.mtime" // of directories that the layer lists, in nanoseconds
	modelLower = "trusted.model.lower" // path of the lower layers' file that this one is a link to
)

// Model applies layers to a real directory in the plainest way: each layer is
// unpacked on its own, as Docker does it, then moved over what is there. The
// kernel resolves all paths. It must run as root.
type Model struct {
	Dir      string            // the image so far, root of the listing
	layer    string            // the layer being unpacked
	spares   string            // where each stand-in of the layer has one more name
	standIns map[string]string // target → that name
	overlay  *overlayStack
}

// NewModel makes a model in an empty directory.
func NewModel(dir string) (*Model, error) {
	m := &Model{Dir: path.Join(dir, "merged"), layer: path.Join(dir, "layer"), spares: path.Join(dir, "spares"),
		overlay: &overlayStack{dir: path.Join(dir, "overlay")}}
	return m, errors.Join(os.Mkdir(m.Dir, 0o755), os.Mkdir(m.overlay.dir, 0o755))
}

// Begin begins a layer.
func (m *Model) Begin() error {
	m.standIns = map[string]string{}
	return errors.Join(os.Mkdir(m.layer, 0o755), os.Mkdir(m.spares, 0o755))
}

// Add unpacks one entry into the layer. After an error the layer is as
// before, and the entry must not be part of the tar.
func (m *Model) Add(h *tar.Header, content []byte) error {
	name := path.Clean(h.Name)
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("root is no directory")
		}
		return m.attributes(m.layer, h)
	}
	if h.Typeflag == tar.TypeLink {
		return m.link(name, h)
	}
	dir, done, err := openIn(m.layer, path.Dir(name), true)
	if err != nil {
		return err
	}
	defer done()
	at := path.Join(dir, path.Base(name))
	old, err := os.Lstat(at)
	if err == nil && !(old.IsDir() && h.Typeflag == tar.TypeDir) {
		if err := os.RemoveAll(at); err != nil {
			return err
		}
	}
	rdev := int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
	switch h.Typeflag {
	case tar.TypeDir:
		if old == nil || !old.IsDir() {
			err = os.Mkdir(at, 0o755)
		} else {
			err = nil
		}
	case tar.TypeReg:
		err = os.WriteFile(at, content, 0o600)
	case tar.TypeSymlink:
		err = os.Symlink(h.Linkname, at)
	case tar.TypeFifo:
		err = unix.Mkfifo(at, 0o600)
	case tar.TypeChar:
		err = unix.Mknod(at, unix.S_IFCHR|0o600, rdev)
	case tar.TypeBlock:
		err = unix.Mknod(at, unix.S_IFBLK|0o600, rdev)
	default:
		err = fmt.Errorf("type %q", h.Typeflag)
	}
	if err != nil {
		return err
	}
	return m.attributes(at, h)
}

// link adds a hard link: to a file of the layer, or else of the lower layers.
func (m *Model) link(name string, h *tar.Header) error {
	target := path.Clean(h.Linkname)
	if strings.HasPrefix(name, target+"/") || strings.HasPrefix(target, name+"/") {
		return errors.New("link above or below its target")
	}
	root := m.layer
	st, file, done, err := lstatIn(root, target)
	if errors.Is(err, unix.ENOENT) {
		root = m.Dir
		st, file, done, err = lstatIn(root, target)
	}
	if err != nil {
		return err
	}
	defer done()
	if st.IsDir() || root == m.Dir && !st.Mode().IsRegular() {
		return errors.New("link to what the model has no links to")
	}
	dir, done2, err := openIn(m.layer, path.Dir(name), true)
	if err != nil {
		return err
	}
	defer done2()
	at := path.Join(dir, path.Base(name))
	if old, err := os.Lstat(at); err == nil && os.SameFile(old, st) {
		return errors.New("link to itself")
	}
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	if root == m.layer {
		err = os.Link(file, at)
	} else {
		err = m.standIn(at, target)
	}
	if err != nil {
		return err
	}
	return m.attributes(at, h)
}

// standIn makes the file that a link to a file of the lower layers is for now.
// Links to the same path share it.
func (m *Model) standIn(at, target string) error {
	if first, ok := m.standIns[target]; ok {
		if _, err := os.Lstat(first); err == nil {
			return os.Link(first, at)
		}
	}
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		return err
	}
	spare := path.Join(m.spares, strconv.Itoa(len(m.standIns)))
	m.standIns[target] = spare
	return errors.Join(os.Link(at, spare), unix.Lsetxattr(at, modelLower, []byte(target), 0))
}

// lstatIn is lstat in a root; done must be called unless there is an error.
func lstatIn(root, name string) (st os.FileInfo, file string, done func(), err error) {
	dir, done, err := openIn(root, path.Dir(name), false)
	if err != nil {
		return nil, "", nil, err
	}
	file = path.Join(dir, path.Base(name))
	if st, err = os.Lstat(file); err != nil {
		done()
	}
	return st, file, done, err
}

// attributes sets what the entry says of owner, mode, xattrs and time.
func (m *Model) attributes(at string, h *tar.Header) error {
	st, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if err := unix.Lchown(at, h.Uid, h.Gid); err != nil {
		return err
	}
	if st.Mode()&os.ModeSymlink == 0 {
		if err := unix.Chmod(at, uint32(h.Mode)&0o7777); err != nil {
			return err
		}
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		err := unix.Lsetxattr(at, name, []byte(value), 0)
		if err != nil && err != unix.ENOTSUP && err != unix.EPERM {
			return fmt.Errorf("xattr %s: %w", name, err)
		}
	}
	if st.IsDir() {
		return unix.Lsetxattr(at, modelMtime, strconv.AppendInt(nil, h.ModTime.UnixNano(), 10), 0)
	}
	return setTime(at, h.ModTime)
}

func setTime(at string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, at, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// openIn resolves a directory as if root were the root directory, and makes
// what is missing of it. The path is valid until done is called.
func openIn(root, name string, create bool) (dir string, done func(), err error) {
	rootFD, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	defer unix.Close(rootFD)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(rootFD, name, how)
	if err == unix.ENOENT && create {
		parent, done, err := openIn(root, path.Dir(name), true)
		if err != nil {
			return "", nil, err
		}
		defer done()
		if err := mkdir(path.Join(parent, path.Base(name))); err != nil {
			return "", nil, err
		}
		return openIn(root, name, false)
	}
	if err != nil {
		return "", nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), func() { unix.Close(fd) }, nil
}

// mkdir makes a directory of root that takes nothing from its parent.
func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Lchown(dir, 0, 0), unix.Chmod(dir, 0o755))
}

// End moves the layer over the image.
func (m *Model) End() error {
	if err := m.overlay.keep(m); err != nil {
		return err
	}
	if err := m.join(m.layer); err != nil {
		return err
	}
	if err := os.RemoveAll(m.spares); err != nil {
		return err
	}
	if err := m.apply(m.Dir, m.layer); err != nil {
		return err
	}
	return os.RemoveAll(m.layer)
}

// Finish sets the times of all directories. No more layers may follow.
func (m *Model) Finish() error {
	return eachDir(m.Dir, func(dir string) error {
		ns, err := getTime(dir)
		if err != nil {
			return err
		}
		unix.Lremovexattr(dir, modelMtime)
		return setTime(dir, time.Unix(0, ns))
	})
}

func getTime(dir string) (int64, error) {
	var b [32]byte
	n, err := unix.Lgetxattr(dir, modelMtime, b[:])
	if err == unix.ENODATA {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(b[:n]), 10, 64)
}

func eachDir(dir string, fn func(string) error) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.IsDir() {
			if err := eachDir(path.Join(dir, e.Name()), fn); err != nil {
				return err
			}
		}
	}
	return fn(dir)
}
