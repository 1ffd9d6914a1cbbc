// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/go-archive"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"
)

// isParent tells whether parent is the layer right below id.
func (d *Driver) isParent(id, parent string) bool {
	ids, err := d.chain(id)
	if err != nil {
		return false
	}
	if len(ids) == 0 {
		return parent == ""
	}
	return ids[0] == parent
}

// holdUnlessNative holds the lazy layers that overlay2 will read when it compares two mounted trees; from the upper
// directory alone it reads none.
func (s *store) holdUnlessNative(id, parent string) (func(), error) {
	if s.native && s.d.isParent(id, parent) {
		return func() {}, nil
	}
	return s.d.hold("diff of "+id, id, parent)
}

// applied returns the record of a layer whose diff is known exactly: one that was applied, asked against its own parent.
func (d *Driver) applied(id, parent string) (*record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.layers[id]
	if l == nil {
		return nil, nil
	}
	if l.bad != nil {
		return nil, l.bad
	}
	if l.Parent != parent {
		return nil, nil
	}
	return l.record, nil
}

// Diff returns the tar of what a layer adds to its parent. For a layer that was applied it is what ApplyDiff got, byte
// for byte; the reader fails at the end if it is not.
func (d *Driver) Diff(id, parent string) (io.ReadCloser, error) {
	if err := errors.Join(checkID(id), checkParent(parent)); err != nil {
		return nil, err
	}
	s, err := d.open()
	if err != nil {
		return nil, err
	}
	r, err := d.applied(id, parent)
	if err != nil {
		return nil, err
	}
	if r != nil {
		return d.exactDiff(r)
	}
	release, err := s.holdUnlessNative(id, parent)
	if err != nil {
		return nil, err
	}
	rc, err := s.overlay.Diff(id, parent)
	if err != nil {
		release()
		return nil, err
	}
	return &releaseReader{ReadCloser: rc, release: release}, nil
}

type releaseReader struct {
	io.ReadCloser
	release func()
	once    sync.Once
}

func (r *releaseReader) Close() error {
	err := r.ReadCloser.Close()
	r.once.Do(r.release)
	return err
}

// Changes lists what differs between a layer and its parent.
func (d *Driver) Changes(id, parent string) ([]archive.Change, error) {
	if err := errors.Join(checkID(id), checkParent(parent)); err != nil {
		return nil, err
	}
	s, err := d.open()
	if err != nil {
		return nil, err
	}
	release, err := d.hold("changes of "+id, id, parent)
	if err != nil {
		return nil, err
	}
	defer release()
	return s.overlay.Changes(id, parent)
}

// DiffSize returns how many bytes a layer adds to its parent. Of a layer that is kept as it came this is the size that
// ApplyDiff has told.
func (d *Driver) DiffSize(id, parent string) (int64, error) {
	if err := errors.Join(checkID(id), checkParent(parent)); err != nil {
		return 0, err
	}
	s, err := d.open()
	if err != nil {
		return 0, err
	}
	r, err := d.applied(id, parent)
	if err != nil {
		return 0, err
	}
	if r != nil && r.Kind != kindTar {
		return r.Size, nil
	}
	release, err := s.holdUnlessNative(id, parent)
	if err != nil {
		return 0, err
	}
	defer release()
	return s.overlay.DiffSize(id, parent)
}

// exactDiff gives back, byte for byte, the stream that ApplyDiff got. The reader ends with an error when what is stored
// is not that any more.
func (d *Driver) exactDiff(r *record) (io.ReadCloser, error) {
	what := "diff of layer " + r.ID
	var raw io.ReadCloser
	var err error
	if r.Kind == kindTar {
		raw, err = d.assemble(r)
	} else {
		raw, err = os.Open(filepath.Join(d.layerDir(r.ID), rawFile))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return newVerifyReader(raw, what, r.DiffID, r.StreamSize), nil
}

// assemble puts an ordinary layer's tar together again from its tar-split file and its unpacked files.
func (d *Driver) assemble(r *record) (io.ReadCloser, error) {
	path := filepath.Join(d.layerDir(r.ID), tarSplitFile)
	if err := checkFileDigest(path, r.TarSplit); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	root, err := unix.Open(d.diffDir(r.ID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		dec.Close()
		return nil, errors.Join(fmt.Errorf("open %s: %w", d.diffDir(r.ID), err), f.Close())
	}
	pr, pw := io.Pipe()
	go func() {
		err := asm.WriteOutputTarStream(layerFiles(root), storage.NewJSONUnpacker(dec), pw)
		dec.Close()
		pw.CloseWithError(errors.Join(err, unix.Close(root), f.Close()))
	}()
	return pr, nil
}

// layerFiles opens files of an unpacked layer by their names in its tar, with the layer as root directory, so that no
// symbolic link leads out of it. The value is the directory's descriptor.
type layerFiles int

func (root layerFiles) Get(name string) (io.ReadCloser, error) {
	fd, err := unix.Openat2(int(root), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	f := os.NewFile(uintptr(fd), name)
	if err == unix.ENOSYS { // Linux before 5.6
		f, err = root.openBeneath(name)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open in layer", Path: name, Err: err}
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%q in the layer is no regular file any more", name), err, f.Close())
	}
	return f, nil
}

// openBeneath is Get's open for kernels without openat2. It refuses absolute symbolic links, where Get follows them.
func (root layerFiles) openBeneath(name string) (*os.File, error) {
	dir, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", int(root)))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.OpenFile(strings.TrimLeft(name, "/"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}
