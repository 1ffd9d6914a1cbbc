// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"time"

	"lighter/format"
)

// Attributes that Merge would obey: a layer's own bootstrap has them where its
// tar has no entry (format.BuildLayer).
const (
	markImplicit = "trusted.lighter.implicit"
	markLink     = "trusted.lighter.link"
)

// Exported tells what an export wrote.
type Exported struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`   // of files
	Sockets int   `json:"sockets"` // left out: tar has none
}

// ExportTar writes an image's tree as a tar in PAX format: directories before
// what they hold, names in byte order, of a hard link's names the first as the
// file. All bytes are verified. The same tree gives the same bytes.
func ExportTar(w io.Writer, b *format.Bootstrap, open format.OpenBlob) (*Exported, error) {
	return exportTar(w, b, open, false)
}

// exportTar also writes the tar of a single layer.
func exportTar(w io.Writer, b *format.Bootstrap, open format.OpenBlob, layer bool) (*Exported, error) {
	c := b.Content(open)
	defer c.Close()
	e := &tarExporter{b: b, c: c, w: tar.NewWriter(w), names: map[uint64]string{}}
	if err := (&walker{b: b, fn: e.entry, layer: layer}).root(); err != nil {
		return nil, err
	}
	return &e.done, e.w.Close()
}

type tarExporter struct {
	b     *format.Bootstrap
	c     *format.Content
	w     *tar.Writer
	names map[uint64]string // first name of inodes with several, by nid
	done  Exported
}

func (e *tarExporter) entry(p string, i format.Inode) error {
	h, err := e.header(p, i)
	if err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	if h == nil {
		return nil
	}
	if err := e.w.WriteHeader(h); err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	e.done.Entries++
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	e.done.Bytes += i.Size
	if _, err := io.Copy(e.w, fileReader(e.c, i)); err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	return nil
}

// header describes an entry; nil: it has none.
func (e *tarExporter) header(p string, i format.Inode) (*tar.Header, error) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: p, Mode: int64(i.Mode & 0o7777), Uid: int(i.UID), Gid: int(i.GID),
		ModTime: time.Unix(i.Mtime, int64(i.MtimeNsec)), PAXRecords: map[string]string{},
	}
	xattrs, err := e.b.Xattrs(i)
	if err != nil {
		return nil, err
	}
	lower := ""
	for _, x := range xattrs {
		switch {
		case x.Name == markImplicit:
			return nil, nil
		case x.Name == markLink:
			lower = string(x.Value)
		default:
			h.PAXRecords["SCHILY.xattr."+x.Name] = string(x.Value)
		}
	}
	switch i.Mode & format.ModeType {
	case format.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, path.Join(".", p)+"/"
	case format.ModeRegular:
		h.Typeflag, h.Size = tar.TypeReg, i.Size
	case format.ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = e.b.Readlink(i); err != nil {
			return nil, err
		}
	case format.ModeChar, format.ModeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(i.Major()), int64(i.Minor())
		if i.Mode&format.ModeType == format.ModeBlock {
			h.Typeflag = tar.TypeBlock
		}
	case format.ModeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		e.done.Sockets++
		return nil, nil
	}
	if lower != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, lower, 0
	}
	if i.Nlink > 1 && !i.IsDir() {
		if first, again := e.names[i.Nid]; again {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			e.names[i.Nid] = p
		}
	}
	return h, nil
}

// fileReader streams a file's content, verified.
func fileReader(c *format.Content, i format.Inode) io.Reader {
	return io.NewSectionReader(contentAt{c, i}, 0, i.Size)
}

type contentAt struct {
	c *format.Content
	i format.Inode
}

func (f contentAt) ReadAt(p []byte, off int64) (int, error) { return f.c.ReadAt(f.i, p, off) }
