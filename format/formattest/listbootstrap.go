// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"lighter/format"
)

// OpenBlob gives access to a blob of an image.
type OpenBlob = func(format.Blob) (io.ReaderAt, int64, error)

// ListBootstrap lists an image, with every chunk read and verified.
func ListBootstrap(b *format.Bootstrap, open OpenBlob) (Listing, error) {
	l := &lister{b: b, open: open, tables: map[uint32]*format.ChunkTable{}}
	root, err := b.Inode(b.Info().RootNid)
	if err != nil {
		return nil, err
	}
	if err := l.list("", root); err != nil {
		return nil, err
	}
	return l.all.sorted(), nil
}

type lister struct {
	b      *format.Bootstrap
	open   OpenBlob
	tables map[uint32]*format.ChunkTable
	all    Listing

	// read, if set, reads files instead.
	read func(i format.Inode) io.Reader

	// onChunk, if set, gets the content of all chunks of all files.
	onChunk func(c format.Chunk, data []byte) error
}

func (l *lister) list(path string, i format.Inode) error {
	e := newEntry(path, i.Mode, i.UID, i.GID, i.Nlink, i.Rdev, i.Size, i.Mtime)
	e.Nsec = i.MtimeNsec
	xattrs, err := l.b.Xattrs(i)
	if err != nil {
		return err
	}
	for _, x := range xattrs {
		e.setXattr(x.Name, x.Value)
	}
	switch e.Type {
	case "l":
		target, err := l.b.Readlink(i)
		if err != nil {
			return err
		}
		e.Link = Escape(target)
	case "f":
		if e.SHA256, err = l.digest(i); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	l.all = append(l.all, e)
	if e.Type != "d" {
		return nil
	}
	var failed error
	err = l.b.Dirents(i, 0, func(_ int, d format.Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		child, err := l.b.Child(i, d)
		if err == nil {
			sep := "/"
			if path == "" {
				sep = ""
			}
			err = l.list(path+sep+d.Name, child)
		}
		failed = err
		return err == nil
	})
	return errors.Join(failed, err)
}

// digest is the SHA-256 of a file's content.
func (l *lister) digest(i format.Inode) (string, error) {
	h := sha256.New()
	if l.read != nil {
		_, err := io.Copy(h, l.read(i))
		return hex.EncodeToString(h.Sum(nil)), err
	}
	var failed error
	err := l.b.FileChunks(i, 0, i.Size, func(_ int64, c format.Chunk) bool {
		var data []byte
		if data, failed = l.chunk(c); failed == nil {
			h.Write(data)
			if l.onChunk != nil {
				failed = l.onChunk(c, data)
			}
		}
		return failed == nil
	})
	return hex.EncodeToString(h.Sum(nil)), errors.Join(failed, err)
}

func (l *lister) chunk(c format.Chunk) ([]byte, error) {
	bl := l.b.Blobs()[c.BlobIndex]
	r, size, err := l.open(bl)
	if err != nil {
		return nil, err
	}
	if l.b.NeedsMeta(c.BlobIndex) && l.tables[c.BlobIndex] == nil {
		side, sideSize := r, size
		if bl.IsSeparate() {
			meta := bl
			meta.ID = hex.EncodeToString(bl.MetaDigest[:])
			if side, sideSize, err = l.open(meta); err != nil {
				return nil, err
			}
		}
		if l.tables[c.BlobIndex], err = format.ReadChunkTable(side, sideSize, bl); err != nil {
			return nil, err
		}
	}
	e, err := l.b.Extent(c, l.tables[c.BlobIndex])
	if err != nil {
		return nil, err
	}
	stored := make([]byte, e.Size)
	if _, err := r.ReadAt(stored, e.Off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	unit, err := e.Inflate(nil, stored)
	if err != nil {
		return nil, err
	}
	data := unit[e.Skip : e.Skip+int64(c.UncompressedSize)]
	return data, l.b.Verify(c, data)
}
