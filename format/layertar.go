// SPDX-License-Identifier: Apache-2.0

package format

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"lighter/format/internal/disk"
)

// WriteLayerTar writes the files of one layer to w as a layer tar (OCI image
// layer specification). b is the layer's own bootstrap, open opens its blob.
// Whiteouts, hard links to files of lower layers and directories that the layer
// does not list come out as they went in; the order of the entries is that of
// the tree, but for links to a lower layer's file whose name the layer takes for
// another one: these come before it. Every chunk is verified.
func WriteLayerTar(w io.Writer, b *Bootstrap, open OpenBlob) error {
	root, err := b.Inode(b.Info().RootNid)
	if err != nil {
		return err
	}
	out := &layerTar{
		b: b, w: tar.NewWriter(w), content: b.Content(open), names: map[uint64]string{},
		links: map[string][]*tar.Header{}, written: map[string]bool{},
		ours: disk.CString(b.sb.VolumeName[:]) == layerVolume,
	}
	if out.ours {
		err = out.findLinks("", root, 0)
	}
	if err == nil {
		err = out.entry("", root, 0)
	}
	return errors.Join(err, out.content.Close(), out.close(err))
}

type layerTar struct {
	b       *Bootstrap
	w       *tar.Writer
	content *Content
	names   map[uint64]string        // nid → the first name of a file with several
	links   map[string][]*tar.Header // to files of lower layers, by their names there
	written map[string]bool          // names of these that have an entry already
	ours    bool                     // the layer has our marks
}

// findLinks lists the hard links to files of lower layers at name and below it.
func (t *layerTar) findLinks(name string, i Inode, depth int) error {
	if !i.IsDir() {
		if !i.IsRegular() {
			return nil
		}
		h, _, err := t.header(name, i)
		if err == nil && h.Typeflag == tar.TypeLink {
			t.links[h.Linkname] = append(t.links[h.Linkname], h)
		}
		delete(t.names, i.Nid)
		return err
	}
	return t.children(name, i, depth, t.findLinks)
}

// linksTo writes the links to a lower layer's file of this name.
func (t *layerTar) linksTo(name string) error {
	for _, h := range t.links[name] {
		if t.written[h.Name] {
			continue
		}
		t.written[h.Name] = true
		if err := errors.Join(t.linksTo(h.Name), t.w.WriteHeader(h)); err != nil {
			return err
		}
	}
	return nil
}

func (t *layerTar) close(err error) error {
	if err != nil {
		return nil // an unfinished archive has no end
	}
	return t.w.Close()
}

// entry writes the file at name, "" for the root, and what is below it.
func (t *layerTar) entry(name string, i Inode, depth int) error {
	if t.written[name] {
		return nil
	}
	if err := t.linksTo(name); err != nil {
		return err
	}
	h, listed, err := t.header(name, i)
	if err != nil {
		return err
	}
	if listed {
		if err := t.w.WriteHeader(h); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeReg {
		return t.file(i)
	}
	if !i.IsDir() {
		return nil
	}
	return t.children(name, i, depth, t.entry)
}

// children calls do for all that is in a directory, until it fails.
func (t *layerTar) children(name string, dir Inode, depth int, do func(string, Inode, int) error) error {
	if depth > maxDepth {
		return unsupported("directory", "", t.b.off(dir.Nid), "nested deeper than %d", maxDepth)
	}
	var failed error
	err := t.b.Dirents(dir, 0, func(_ int, d Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		var child Inode
		if child, failed = t.b.Child(dir, d); failed == nil {
			failed = do(path.Join(name, d.Name), child, depth+1)
		}
		return failed == nil
	})
	return errors.Join(failed, err)
}

// header makes an inode's entry; listed is false for a directory that the layer
// does not list.
func (t *layerTar) header(name string, i Inode) (h *tar.Header, listed bool, err error) {
	h = &tar.Header{
		Name: name, Mode: int64(i.Mode & 0o7777), Uid: int(i.UID), Gid: int(i.GID), ModTime: time.Unix(i.Mtime, int64(i.MtimeNsec)),
		Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	xattrs, err := t.b.Xattrs(i)
	if err != nil {
		return nil, false, err
	}
	listed = t.ours || name != "" || !madeUpRoot(i, len(xattrs))
	for _, x := range xattrs {
		switch {
		case t.ours && x.Name == markImplicit:
			listed = false
		case t.ours && x.Name == markLower:
			h.Typeflag, h.Linkname = tar.TypeLink, string(x.Value)
		case !strings.HasPrefix(x.Name, markXattrs):
			h.PAXRecords[paxXattr+x.Name] = string(x.Value)
		}
	}
	if h.Typeflag == tar.TypeLink {
		return h, true, nil
	}
	if i.IsDir() {
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		if name == "" {
			h.Name = "./"
		}
		return h, listed, nil
	}
	if first := t.names[i.Nid]; first != "" {
		h.Typeflag, h.Linkname = tar.TypeLink, first // with the attributes: unpacking sets them again
		return h, true, nil
	}
	if i.Nlink > 1 {
		t.names[i.Nid] = name
	}
	return h, true, t.kind(h, i)
}

// kind sets what depends on the type of a file that is no directory.
func (t *layerTar) kind(h *tar.Header, i Inode) (err error) {
	switch i.Mode & ModeType {
	case ModeRegular:
		h.Typeflag, h.Size = tar.TypeReg, i.Size
	case ModeSymlink:
		h.Typeflag = tar.TypeSymlink
		h.Linkname, err = t.b.Readlink(i)
	case ModeChar, ModeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(i.Major()), int64(i.Minor())
		if i.Mode&ModeType == ModeBlock {
			h.Typeflag = tar.TypeBlock
		}
	case ModeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return unsupported("inode", "i_mode", t.b.off(i.Nid), "mode %o has no place in a tar", i.Mode)
	}
	return err
}

func (t *layerTar) file(i Inode) error {
	var failed error
	err := t.b.FileChunks(i, 0, i.Size, func(_ int64, c Chunk) bool {
		var data []byte
		if data, failed = t.content.Chunk(c); failed == nil {
			_, failed = t.w.Write(data)
		}
		return failed == nil
	})
	return errors.Join(failed, err)
}

// madeUpRoot tells the root that the reference builder makes up for layers that
// do not list it.
func madeUpRoot(i Inode, xattrs int) bool {
	return i.Mode == ModeDir|0o755 && i.UID|i.GID == 0 && i.Mtime == 0 && i.MtimeNsec == 0 && xattrs == 0
}
