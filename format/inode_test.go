// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"io/fs"
	"testing"
	"testing/fstest"
	"time"

	"lighter/format/internal/disk"
)

// TestCompactInode rewrites a device's inode in the short form, which the
// format allows and no builder uses.
func TestCompactInode(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	var path string
	for _, e := range readListing(t, g.listing) {
		if e.Rdev != "" && e.Xattrs == nil {
			path = e.Path
		}
	}
	want, err := b.LookupPath(path)
	if err != nil {
		t.Fatal(err)
	}
	boot := bytes.Clone(g.boot)
	short := disk.InodeCompact{Format: 0, Mode: uint16(want.Mode), Nlink: 1, U: want.Rdev, Ino: want.Ino, UID: 1000, GID: 65535}
	copy(boot[b.off(want.Nid):], short.Append(nil))
	clear(boot[b.off(want.Nid)+32:][:32])
	if b, err = OpenBytes(boot); err != nil {
		t.Fatal(err)
	}
	got, err := b.LookupPath(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Mode != want.Mode || got.Rdev != want.Rdev || got.Ino != want.Ino || got.UID != 1000 || got.GID != 65535 || got.Nlink != 1 || got.Mtime != 0 {
		t.Errorf("%+v, want the like of %+v", got, want)
	}
	if r, err := Check(b, nil, CheckOptions{}); err != nil || r.Err() != nil {
		t.Error(err, r.Err())
	}
}

func TestFileMode(t *testing.T) {
	for mode, want := range map[uint32]fs.FileMode{
		ModeRegular | 0o644:  0o644,
		ModeRegular | 0o4755: 0o755 | fs.ModeSetuid,
		ModeDir | 0o3777:     0o777 | fs.ModeDir | fs.ModeSetgid | fs.ModeSticky,
		ModeSymlink | 0o777:  0o777 | fs.ModeSymlink,
		ModeChar | 0o600:     0o600 | fs.ModeDevice | fs.ModeCharDevice,
		ModeBlock | 0o600:    0o600 | fs.ModeDevice,
		ModeFIFO:             fs.ModeNamedPipe,
		ModeSocket:           fs.ModeSocket,
	} {
		if got := (Inode{Mode: mode}).FileMode(); got != want {
			t.Errorf("%#o gives %v, want %v", mode, got, want)
		}
	}
	if i := (Inode{Rdev: 0x11032c}); i.Major() != 259 || i.Minor() != 300 {
		t.Errorf("device %d:%d", i.Major(), i.Minor())
	}
}

// TestFS puts the file system through the standard library's own suite.
func TestFS(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	fsys := b.FS(g.open)
	for dir, expected := range map[string][]string{"bin": {"su", "alias"}, "deep": {"d0/d1"}} {
		sub, err := fs.Sub(fsys, dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := fstest.TestFS(sub, expected...); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"/bin", "bin/", "bin/none", "bin/su/x", "../bin"} {
		if f, err := fsys.Open(name); err == nil {
			f.Close()
			t.Errorf("%q opens", name)
		}
	}
	info, err := fs.Stat(fsys, "bin/su2")
	if err != nil || info.ModTime() != time.Unix(1234567890, 0) || info.Mode() != 0o755|fs.ModeSetuid || info.Size() != 1000 {
		t.Errorf("%v, %v", info, err)
	}
}
