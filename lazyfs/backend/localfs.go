// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Dir is the blobs in a local directory: files named <hex> or sha256:<hex>, or
// as in an OCI image layout blobs/sha256/<hex>. Symbolic links count as long as
// they stay below the directory.
type Dir struct{ dir string }

// NewDir returns the blobs below dir, which may come to exist later.
func NewDir(dir string) *Dir { return &Dir{dir} }

// Open finds the blob; the error wraps fs.ErrNotExist if there is no such file.
func (d *Dir) Open(ctx context.Context, blobID string) (Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	hex, err := parseID(blobID)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return nil, fmt.Errorf("open blob sha256:%s: %w", hex, err)
	}
	defer root.Close()
	for _, name := range []string{hex, "sha256:" + hex, "blobs/sha256/" + hex} {
		// O_NONBLOCK: opening a pipe would wait for its writer.
		f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open blob in %s: %w", d.dir, err)
		}
		return newFileBlob(f)
	}
	return nil, fmt.Errorf("open blob sha256:%s in %s: %w", hex, d.dir, fs.ErrNotExist)
}

// fileBlob is an open file. The file is closed by Close, or when nothing refers
// to it any more.
type fileBlob struct {
	f    *os.File
	size int64
}

func newFileBlob(f *os.File) (Blob, error) {
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open blob %s: %w", f.Name(), err)
	}
	return &fileBlob{f, fi.Size()}, nil
}

// blobFile is a file that is the blob, whatever its name.
type blobFile string

func (p blobFile) Open(ctx context.Context, blobID string) (Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	hex, err := parseID(blobID)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	f, err := os.OpenFile(string(p), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open blob sha256:%s: %w", hex, err)
	}
	return newFileBlob(f)
}

func (b *fileBlob) Size() int64  { return b.size }
func (b *fileBlob) Close() error { return b.f.Close() }

func (b *fileBlob) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("read blob %s: negative offset %d", b.f.Name(), off)
	}
	want, end := clip(len(p), off, b.size)
	n, err := b.f.ReadAt(p[:want], off)
	switch {
	case n < want && err == io.EOF:
		return n, fmt.Errorf("read blob %s at %d: file is shorter than it was: %w", b.f.Name(), off, io.ErrUnexpectedEOF)
	case n < want:
		return n, err
	case end:
		return n, io.EOF
	}
	return n, nil
}

var _ Opener = (*Dir)(nil)
