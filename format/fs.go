// SPDX-License-Identifier: Apache-2.0

package format

import (
	"io"
	"io/fs"
	"time"
)

// FS returns the image as a file system that reads straight from its blobs
// and verifies every chunk: for tools and tests, see Content. Symbolic links
// are not followed by Open. Names that are not valid UTF-8 are listed, but
// package io/fs does not let them be opened: use LookupPath for those. open
// may be nil if no file content is read.
func (b *Bootstrap) FS(open OpenBlob) fs.FS {
	return &imageFS{b, b.Content(open)}
}

type imageFS struct {
	b *Bootstrap
	c *Content
}

var (
	_ fs.ReadDirFS  = (*imageFS)(nil)
	_ fs.StatFS     = (*imageFS)(nil)
	_ fs.ReadLinkFS = (*imageFS)(nil)
)

func (f *imageFS) lookup(op, name string) (*imageFile, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	i, err := f.b.LookupPath(name)
	if err != nil {
		if pe, ok := err.(*fs.PathError); ok {
			err = pe.Err
		}
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	base := name
	for k := len(name) - 1; k >= 0; k-- {
		if name[k] == '/' {
			base = name[k+1:]
			break
		}
	}
	return &imageFile{fs: f, info: fileInfo{base, i}}, nil
}

func (f *imageFS) Open(name string) (fs.File, error) {
	file, err := f.lookup("open", name)
	if err != nil {
		return nil, err
	}
	return file, nil
}

func (f *imageFS) Stat(name string) (fs.FileInfo, error) {
	file, err := f.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return file.info, nil
}

func (f *imageFS) Lstat(name string) (fs.FileInfo, error) { return f.Stat(name) }

func (f *imageFS) ReadLink(name string) (string, error) {
	file, err := f.lookup("readlink", name)
	if err != nil {
		return "", err
	}
	if !file.info.i.IsSymlink() {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return f.b.Readlink(file.info.i)
}

func (f *imageFS) ReadDir(name string) ([]fs.DirEntry, error) {
	file, err := f.lookup("readdir", name)
	if err != nil {
		return nil, err
	}
	return file.ReadDir(-1)
}

// imageFile is an open file or directory.
type imageFile struct {
	fs   *imageFS
	info fileInfo
	off  int64 // of Read, in bytes
	pos  int   // of ReadDir, as in Dirents
}

var (
	_ fs.ReadDirFile = (*imageFile)(nil)
	_ io.ReaderAt    = (*imageFile)(nil)
	_ io.Seeker      = (*imageFile)(nil)
)

func (f *imageFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *imageFile) Close() error               { return nil }

func (f *imageFile) ReadAt(p []byte, off int64) (int, error) {
	if f.info.i.IsDir() || f.info.i.IsSymlink() {
		return 0, &fs.PathError{Op: "read", Path: f.info.name, Err: fs.ErrInvalid}
	}
	if !f.info.i.IsRegular() {
		return 0, io.EOF // devices have no content here
	}
	return f.fs.c.ReadAt(f.info.i, p, off)
}

func (f *imageFile) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.off)
	f.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *imageFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += f.off
	case io.SeekEnd:
		off += f.info.i.Size
	}
	if off < 0 {
		return 0, &fs.PathError{Op: "seek", Path: f.info.name, Err: fs.ErrInvalid}
	}
	f.off = off
	return off, nil
}

func (f *imageFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if !f.info.i.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: f.info.name, Err: fs.ErrInvalid}
	}
	list := []fs.DirEntry{}
	var failed error
	err := f.fs.b.Dirents(f.info.i, f.pos, func(at int, d Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			f.pos = at + 1
			return true
		}
		if n > 0 && len(list) == n {
			return false
		}
		i, err := f.fs.b.Child(f.info.i, d)
		if err != nil {
			failed = err
			return false
		}
		f.pos = at + 1
		list = append(list, fs.FileInfoToDirEntry(fileInfo{d.Name, i}))
		return true
	})
	if failed != nil {
		err = failed
	}
	if err == nil && n > 0 && len(list) == 0 {
		err = io.EOF
	}
	return list, err
}

// fileInfo is an inode under one of its names. Sys returns the Inode.
type fileInfo struct {
	name string
	i    Inode
}

func (f fileInfo) Name() string       { return f.name }
func (f fileInfo) Size() int64        { return f.i.Size }
func (f fileInfo) Mode() fs.FileMode  { return f.i.FileMode() }
func (f fileInfo) ModTime() time.Time { return time.Unix(f.i.Mtime, int64(f.i.MtimeNsec)) }
func (f fileInfo) IsDir() bool        { return f.i.IsDir() }
func (f fileInfo) Sys() any           { return f.i }
