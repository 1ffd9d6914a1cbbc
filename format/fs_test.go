// SPDX-License-Identifier: Apache-2.0

package format

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
)

func TestFSFiles(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	fsys := b.FS(g.open)
	links, devices := 0, 0
	for _, e := range readListing(t, g.listing) {
		if strings.Contains(e.Path, "%") {
			continue // stands for other bytes
		}
		switch e.Type {
		case "l":
			links++
			if target, err := fs.ReadLink(fsys, e.Path); err != nil || encodeName(target) != *e.Link {
				t.Errorf("%s: link to %q (%v)", e.Path, target, err)
			}
			if _, err := fs.ReadFile(fsys, e.Path); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: a link reads: %v", e.Path, err)
			}
		case "c", "b":
			devices++
			if p, err := fs.ReadFile(fsys, e.Path); err != nil || len(p) != 0 {
				t.Errorf("%s: %d bytes (%v)", e.Path, len(p), err)
			}
			info, err := fs.Stat(fsys, e.Path)
			if err != nil || info.Sys().(Inode).Rdev == 0 {
				t.Errorf("%s: %+v (%v)", e.Path, info, err)
			}
		case "f":
			if _, err := fs.ReadLink(fsys, e.Path); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: a file is a link: %v", e.Path, err)
			}
		}
	}
	if links == 0 || devices == 0 {
		t.Errorf("%d links, %d devices", links, devices)
	}
	root, err := b.LookupPath("")
	if err != nil {
		t.Fatal(err)
	}
	content := b.Content(g.open)
	defer content.Close()
	if _, err := content.ReadAt(root, make([]byte, 1), 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a directory reads: %v", err)
	}
	if err := b.Dirents(Inode{Mode: ModeRegular}, 0, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a file lists: %v", err)
	}
	su, err := b.LookupPath("/bin//./su/")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := content.ReadAt(su, make([]byte, 5), su.Size-2); n != 2 || err != io.EOF {
		t.Errorf("%d bytes at the end (%v)", n, err)
	}
	if n, err := content.ReadAt(su, make([]byte, 5), su.Size); n != 0 || err != io.EOF {
		t.Errorf("%d bytes behind the end (%v)", n, err)
	}
	if _, err := content.ReadAt(su, make([]byte, 5), -1); err == nil {
		t.Error("a negative offset reads")
	}
	lost := b.Content(func(Blob) (io.ReaderAt, int64, error) { return nil, 0, fs.ErrNotExist })
	if _, err := lost.ReadAt(su, make([]byte, 5), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without blobs: %v", err)
	}
}
