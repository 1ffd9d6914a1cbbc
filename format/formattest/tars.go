// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"bytes"
	"maps"
	"testing"
	"time"
)

// File is one entry of a tar for tests. Times are 1700000000 unless set, modes
// 0644, or 0755 for directories.
type File struct {
	Name    string
	Type    byte // tar.TypeReg unless set
	Link    string
	Content string
	Mode    int64
	Mtime   time.Time
	UID     int
	GID     int
	Dev     [2]int64
	Xattrs  map[string]string
	PAX     map[string]string // more PAX records
	GNU     bool              // in GNU format rather than PAX
	Raw     []byte            // written instead of all the above: whole blocks
}

// Dir, Symlink and Hardlink make the most usual entries besides files.
func Dir(name string) File             { return File{Name: name, Type: tar.TypeDir} }
func Symlink(name, target string) File { return File{Name: name, Type: tar.TypeSymlink, Link: target} }
func Hardlink(name, target string) File {
	return File{Name: name, Type: tar.TypeLink, Link: target}
}

// Tar writes a tar of the files, in PAX format.
func Tar(t testing.TB, files ...File) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if f.Raw != nil {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			out.Write(f.Raw)
			continue
		}
		h := &tar.Header{
			Format: tar.FormatPAX, Name: f.Name, Typeflag: f.Type, Linkname: f.Link, Size: int64(len(f.Content)), Mode: f.Mode,
			ModTime: f.Mtime, Uid: f.UID, Gid: f.GID, Devmajor: f.Dev[0], Devminor: f.Dev[1], PAXRecords: map[string]string{},
		}
		maps.Copy(h.PAXRecords, f.PAX)
		if f.GNU {
			h.Format, h.PAXRecords = tar.FormatGNU, nil
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		for name, value := range f.Xattrs {
			h.PAXRecords["SCHILY.xattr."+name] = value
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%.100q: %v", f.Name, err)
		}
		if _, err := w.Write([]byte(f.Content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
