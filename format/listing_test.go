// SPDX-License-Identifier: Apache-2.0

package format

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"testing"
	"unicode"
	"unicode/utf8"
)

// list returns the whole tree as listing lines, sorted by path.
func list(b *Bootstrap, open OpenBlob) ([]listed, error) {
	c := b.Content(open)
	defer c.Close()
	return listWith(b, c)
}

// listWith is list through a Content that others may use, too.
func listWith(b *Bootstrap, c *Content) ([]listed, error) {
	l := lister{b: b, c: c}
	root, err := b.Inode(b.Info().RootNid)
	if err != nil {
		return nil, err
	}
	if err := l.walk("", root); err != nil {
		return nil, err
	}
	slices.SortFunc(l.all, func(a, b walked) int { return compareStrings(a.raw, b.raw) })
	entries := make([]listed, len(l.all))
	for i := range l.all {
		entries[i] = l.all[i].listed
	}
	return entries, nil
}

func compareStrings(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

type walked struct {
	raw string
	listed
}

type lister struct {
	b   *Bootstrap
	c   *Content
	all []walked
}

func (l *lister) walk(p string, i Inode) error {
	e, err := l.entry(p, i)
	if err != nil {
		return fmt.Errorf("%q: %w", p, err)
	}
	l.all = append(l.all, walked{p, e})
	if !i.IsDir() {
		return nil
	}
	var failed error
	err = l.b.Dirents(i, 0, func(_ int, d Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		nid, err := l.b.Lookup(i, d.Name)
		if err == nil && nid != d.Nid {
			err = fmt.Errorf("lookup gives %d, listing %d", nid, d.Nid)
		}
		if err != nil {
			failed = fmt.Errorf("%q: lookup %q: %w", p, d.Name, err)
			return false
		}
		child, err := l.b.Inode(nid)
		if err != nil {
			failed = err
			return false
		}
		failed = l.walk(path.Join(p, d.Name), child)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func (l *lister) entry(p string, i Inode) (listed, error) {
	e := listed{Path: encodeName(p), Mode: fmt.Sprintf("0o%o", i.Mode&0o7777), UID: i.UID, GID: i.GID, Mtime: &i.Mtime}
	if p == "" {
		e.Path, e.Mtime = ".", nil
	}
	e.Type = map[uint32]string{ModeRegular: "f", ModeDir: "d", ModeSymlink: "l", ModeChar: "c", ModeBlock: "b",
		ModeFIFO: "p", ModeSocket: "s"}[i.Mode&ModeType]
	if !i.IsDir() {
		e.Nlink = &i.Nlink
	}
	switch {
	case i.IsRegular():
		e.Size = &i.Size
		h := sha256.New()
		if _, err := io.CopyBuffer(h, readerOnly{io.NewSectionReader(inodeReader{l.c, i}, 0, i.Size)}, make([]byte, 300_000)); err != nil {
			return e, err
		}
		e.SHA256 = hex.EncodeToString(h.Sum(nil))
	case i.IsSymlink():
		e.Size = &i.Size
		target, err := l.b.Readlink(i)
		if err != nil {
			return e, err
		}
		target = encodeName(target)
		e.Link = &target
	case e.Type == "c" || e.Type == "b":
		e.Rdev = fmt.Sprintf("%d:%d", i.Major(), i.Minor())
	}
	all, err := l.b.Xattrs(i)
	for _, x := range all {
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[x.Name] = hex.EncodeToString(x.Value)
	}
	return e, err
}

type readerOnly struct{ io.Reader }

// inodeReader is a file's content as an io.ReaderAt.
type inodeReader struct {
	c *Content
	i Inode
}

func (r inodeReader) ReadAt(p []byte, off int64) (int, error) { return r.c.ReadAt(r.i, p, off) }

// encodeName writes names as the listing does: what is not printable UTF-8 is
// percent-encoded as a whole.
func encodeName(s string) string {
	printable := utf8.ValidString(s)
	for _, r := range s {
		printable = printable && unicode.IsPrint(r)
	}
	if printable {
		return s
	}
	var out []byte
	for _, c := range []byte(s) {
		if 33 <= c && c < 127 && c != '%' {
			out = append(out, c)
		} else {
			out = fmt.Appendf(out, "%%%02x", c)
		}
	}
	return string(out)
}

func compareListing(t *testing.T, b *Bootstrap, open OpenBlob, want []listed) {
	t.Helper()
	got, err := list(b, open)
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for k := range max(len(got), len(want)) {
		var g, w string
		if k < len(got) {
			g = got[k].String()
		}
		if k < len(want) {
			w = want[k].String()
		}
		if g != w {
			if wrong++; wrong <= 5 {
				t.Errorf("entry %d:\n got %s\nwant %s", k, g, w)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d entries differ", wrong, len(want))
	}
}
