// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	. "lighter/format/formattest"
)

// TestBuildTarFormats packs one tree with GNU tar in all formats that can
// hold it, and compares the image with the tree.
func TestBuildTarFormats(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	makeTree(t, dir)
	for _, c := range []struct{ name, flags string }{
		{"pax", "--format=pax --xattrs --xattrs-include=*"},
		{"pax, sparse 0.0", "--format=pax --xattrs --xattrs-include=* --sparse --sparse-version=0.0"},
		{"pax, sparse 0.1", "--format=pax --xattrs --xattrs-include=* --sparse --sparse-version=0.1"},
		{"pax, sparse 1.0", "--format=pax --xattrs --xattrs-include=* --sparse --sparse-version=1.0"},
		{"gnu", "--format=gnu"},
		{"gnu, sparse", "--format=gnu --sparse"},
		{"oldgnu, sparse", "--format=oldgnu --sparse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append(strings.Fields(c.flags), "--create", "--numeric-owner", "--directory", dir, ".")
			cmd := exec.Command("tar", args...)
			var out, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &stderr
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.Bytes())
			}
			want, err := ListDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if !strings.Contains(c.flags, "xattrs") {
					want[i].Xattrs = nil
				}
			}
			if d := Diff(want, build(t, out.Bytes()).List(t)); d != "" {
				t.Error(d)
			}
		})
	}
}

func makeTree(t *testing.T, dir string) {
	t.Helper()
	long := strings.Repeat("long-", 50)
	deep := filepath.Join(dir, long, long, long)
	sparse := filepath.Join(dir, "sparse")
	for _, err := range []error{
		os.MkdirAll(deep, 0o755),
		os.WriteFile(filepath.Join(deep, "file"), []byte("x"), 0o600),
		os.Symlink(strings.Repeat("target/", 300), filepath.Join(deep, "link")),
		os.Link(filepath.Join(deep, "file"), filepath.Join(dir, "hard")),
		os.WriteFile(filepath.Join(dir, "\xff\xfe\n"), nil, 0o644),
		os.Lchown(filepath.Join(dir, "hard"), 3000000, 4000000),
		unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFCHR|0o600, int(unix.Mkdev(259, 70000))),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640),
		os.WriteFile(sparse, []byte("begin"), 0o644),
		os.Truncate(sparse, 5<<20),
		os.WriteFile(filepath.Join(dir, "holes"), nil, 0o644),
		os.Truncate(filepath.Join(dir, "holes"), 3<<20+1),
		os.Chmod(sparse, 0o4755|os.ModeSetuid),
		unix.Setxattr(sparse, "user.note", []byte("value\x00\xff=\n"), 0),
		unix.Setxattr(sparse, "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
		unix.Setxattr(dir, "trusted.note", []byte("root"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(sparse, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{1 << 20, 3<<20 - 3, 5<<20 - 4096} {
		if _, err := f.WriteAt([]byte("middle"), at); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Unix(1234567890, 0)
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type() != 0 {
			return err
		}
		return os.Chtimes(path, past, past)
	})
	if err != nil {
		t.Fatal(err)
	}
}
