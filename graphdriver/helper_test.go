// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"lighter/graphdriver/drivertest"
)

// plainDisk makes a directory for a store, and fails where overlayfs could not have its upper directory.
func plainDisk(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	switch st.Type {
	case unix.OVERLAYFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		t.Fatalf("%s is on overlayfs or tmpfs; set TMPDIR to a directory on a plain disk", dir)
	}
	t.Cleanup(func() { unmountBelow(t, dir) })
	return dir
}

// unmountBelow takes away what a test has left mounted.
func unmountBelow(t testing.TB, dir string) {
	d := &Driver{root: filepath.Join(dir, "data")}
	mounts, err := d.mountsBelow()
	if err != nil {
		t.Error(err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH)
	}
}

// fakeMounter shows a directory of the disk in place of an image.
type fakeMounter struct {
	tree  string            // what every lazy layer shows
	trees map[string]string // but for these

	mu      sync.Mutex
	mounted map[string]string // id → target
	specs   map[string]LazyLayer
	mounts  int // calls that made a mount
	fail    error
}

func newFakeMounter(tree string) *fakeMounter {
	return &fakeMounter{tree: tree, mounted: make(map[string]string), specs: make(map[string]LazyLayer)}
}

func (m *fakeMounter) Mount(ctx context.Context, id string, l LazyLayer, target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := ctx.Deadline(); !ok {
		return errors.New("no deadline")
	}
	if m.fail != nil {
		return m.fail
	}
	if err := checkFileDigest(l.Bootstrap, l.Digest); err != nil {
		return err
	}
	m.specs[id] = l
	depth, err := mountDepth(target)
	if err != nil {
		return err
	}
	m.mounted[id] = target
	if depth > 0 {
		return nil
	}
	m.mounts++
	tree := m.tree
	if other, ok := m.trees[id]; ok {
		tree = other // overlayfs refuses two lower directories that are one
	}
	if err := unix.Mount(tree, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

func (m *fakeMounter) Unmount(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	target, ok := m.mounted[id]
	if !ok {
		return nil
	}
	delete(m.mounted, id)
	return unix.Unmount(target, unix.MNT_DETACH)
}

func (m *fakeMounter) count() (mounted, mounts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mounted), m.mounts
}

type env struct {
	t     testing.TB
	dir   string
	image string // stands for Docker's image directory
	m     *fakeMounter
	d     *Driver
}

// newEnv makes an initialised driver whose lazy layers show a small tree and are unmounted at once.
func newEnv(t testing.TB) *env {
	t.Helper()
	dir := plainDisk(t)
	tree := filepath.Join(dir, "tree")
	for _, sub := range []string{"etc", "bin", "var/lib"} {
		must(t, os.MkdirAll(filepath.Join(tree, sub), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(tree, "etc/hostname"), []byte("lazy\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(tree, "bin/su"), []byte("setuid\n"), 0o755))
	must(t, os.Chmod(filepath.Join(tree, "bin/su"), 0o755|os.ModeSetuid))
	e := &env{t: t, dir: dir, image: filepath.Join(dir, "image"), m: newFakeMounter(tree)}
	must(t, os.Mkdir(e.image, 0o711))
	e.open()
	must(t, e.d.Init(Config{Home: "/home/lighter:latest"}))
	return e
}

// open opens the store as a new process does.
func (e *env) open() {
	e.t.Helper()
	d, err := New(Options{Root: filepath.Join(e.dir, "data"), Mounter: e.m, DockerImageDir: e.image, Linger: -1})
	must(e.t, err)
	e.d = d
}

// serve puts the driver behind a socket.
func (e *env) serve() *drivertest.Client {
	e.t.Helper()
	socket := filepath.Join(e.dir, fmt.Sprintf("s%d", len(must2(os.ReadDir(e.dir)))))
	l, err := net.Listen("unix", socket)
	must(e.t, err)
	srv := &http.Server{Handler: Handler(e.d)}
	go srv.Serve(l)
	e.t.Cleanup(func() { srv.Close() })
	c := drivertest.Dial(socket)
	e.t.Cleanup(c.Close)
	return c
}

// layer creates a layer from a stream.
func (e *env) layer(id, parent string, data []byte) int64 {
	e.t.Helper()
	must(e.t, e.d.Create(id, parent, CreateOptions{}))
	size, err := e.d.ApplyDiff(id, parent, bytes.NewReader(data))
	must(e.t, err)
	return size
}

func (e *env) diff(id, parent string) []byte {
	e.t.Helper()
	rc, err := e.d.Diff(id, parent)
	must(e.t, err)
	defer rc.Close()
	data, err := io.ReadAll(rc)
	must(e.t, err)
	return data
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must2[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// file is an entry for makeTar; Data counts for regular files.
type file struct {
	tar.Header
	Data string
}

func makeTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if f.Typeflag == 0 {
			f.Typeflag = tar.TypeReg
		}
		if f.Mode == 0 && f.Typeflag != tar.TypeXGlobalHeader {
			f.Mode = 0o644
		}
		if f.Typeflag == tar.TypeReg {
			f.Size = int64(len(f.Data))
		}
		must(t, w.WriteHeader(&f.Header))
		if f.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, f.Data)
			must(t, err)
		}
	}
	must(t, w.Close())
	return buf.Bytes()
}

func reg(name, data string) file {
	return file{tar.Header{Name: name}, data}
}

func dir(name string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

// golden is the directory of golden images.
func golden(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("LIGHTER_GOLDEN")
	if dir == "" {
		dir = "../../shared/golden"
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("golden images: %v (set LIGHTER_GOLDEN)", err)
	}
	return dir
}

// goldenFile reads one of the golden images' files.
func goldenFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(golden(t), name))
	must(t, err)
	return data
}

// bootstrapLayer is the tar of a bootstrap layer with a real bootstrap.
func bootstrapLayer(t testing.TB, extra ...file) []byte {
	t.Helper()
	boot := goldenFile(t, "dir-v6-zstd/bootstrap")
	return makeTar(t, append([]file{dir("image/"), reg("image/image.boot", string(boot))}, extra...)...)
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return digestOf(h[:])
}

func linkHeader(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
}

func hardHeader(name, to string) tar.Header {
	return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
}

// recorder keeps what a handler answers.
type responseRecorder struct {
	header http.Header
	body   bytes.Buffer
}

func newRecorder() *responseRecorder { return &responseRecorder{header: make(http.Header)} }

func (r *responseRecorder) Header() http.Header         { return r.header }
func (r *responseRecorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *responseRecorder) WriteHeader(int)             {}
