// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/v2/daemon/graphdriver/overlay2"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// nastyTars are streams that a tar library would not write again as they are.
func nastyTars(t testing.TB) map[string][]byte {
	plain := makeTar(t, dir("d/"), reg("d/a", "content"), reg("d/b", strings.Repeat("x", 5000)), reg("empty", ""))
	pax := func(records map[string]string, name, data string) file {
		return file{tar.Header{Name: name, Format: tar.FormatPAX, PAXRecords: records, ModTime: time.Unix(1600000000, 123456789)}, data}
	}
	cases := map[string][]byte{
		"ustar":           plain,
		"nothing":         {},
		"one-zero-block":  make([]byte, 512),
		"empty":           make([]byte, 1024),
		"empty-10k":       make([]byte, 10240),
		"more-zeros":      append(bytes.Clone(plain), make([]byte, 1024)...),
		"trailing":        append(bytes.Clone(plain), bytes.Repeat([]byte("garbage"), 999)...),
		"big-trailing":    append(bytes.Clone(plain), bytes.Repeat([]byte("0123456789abcdef"), 200_000)...),
		"no-end":          plain[:len(plain)-1024],
		"one-end":         plain[:len(plain)-512],
		"zeros-then-data": append(make([]byte, 1024), "not a tar at all"...),
		"pax":             makeTar(t, pax(map[string]string{"comment": "hi"}, strings.Repeat("long/", 60)+"name", "pax data")),
		"pax-xattr": makeTar(t, pax(map[string]string{"SCHILY.xattr.user.a": "b", "SCHILY.xattr.security.capability": string([]byte{
			1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})}, "f", "data")),
		"pax-global": makeTar(t, file{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c1"}}, ""},
			file{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c2"}}, ""}, reg("f", "x")),
		"gnu": makeTar(t, file{tar.Header{Name: strings.Repeat("g", 180), Format: tar.FormatGNU, ModTime: time.Unix(-5, 0)}, "gnu data"},
			file{tar.Header{Name: "uid", Format: tar.FormatGNU, Uid: 1 << 30, Gid: 1 << 29}, "x"}),
		"dot-names":       makeTar(t, dir("./"), dir("./d"), reg("./d/f", "1"), reg("d/../d/g", "2"), reg("/abs", "3")),
		"not-utf8":        makeTar(t, reg("a\xffb", "data"), reg("new\nline", "data2")),
		"directory-twice": makeTar(t, dir("d/"), reg("d/f", "1"), dir("d/"), dir("./d")),
		"links": makeTar(t, reg("f", "1"), file{tar.Header{Name: "hard", Linkname: "f", Typeflag: tar.TypeLink}, ""},
			file{tar.Header{Name: "soft", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}, ""}),
		"devices": makeTar(t, file{tar.Header{Name: "c", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""},
			file{tar.Header{Name: "p", Typeflag: tar.TypeFifo}, ""}, file{tar.Header{Name: "s", Mode: 0o6755}, "setid"}),
		"whiteouts":         makeTar(t, dir("d/"), reg("d/.wh.gone", ""), reg("d/.wh..wh..opq", "")),
		"whiteout-content":  makeTar(t, dir("d/"), reg("d/.wh.gone", "somebody put data here"), reg("d/f", "1")),
		"through-a-symlink": makeTar(t, dir("real/"), file{tar.Header{Name: "alias", Linkname: "real", Typeflag: tar.TypeSymlink}, ""}, reg("real/f", "1"), reg("alias/g", "2")),
	}
	for _, format := range []string{"gnu", "oldgnu", "posix", "ustar", "v7"} {
		cases["tar-"+format] = runTar(t, "--format="+format)
	}
	cases["tar-sparse-gnu"] = runTar(t, "--format=gnu", "--sparse")
	for _, v := range []string{"0.0", "0.1", "1.0"} {
		cases["tar-sparse-posix-"+v] = runTar(t, "--format=posix", "--sparse", "--sparse-version="+v)
	}
	return cases
}

// runTar lets GNU tar pack a small tree with a sparse file and a hard link.
func runTar(t testing.TB, args ...string) []byte {
	t.Helper()
	src := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(src, "sub/dir"), 0o751))
	must(t, os.WriteFile(filepath.Join(src, "sub/dir/f"), []byte("hello"), 0o640))
	must(t, os.Link(filepath.Join(src, "sub/dir/f"), filepath.Join(src, "sub/hard")))
	f, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	for i := range int64(9) {
		_, err = f.WriteAt([]byte("data between holes"), i<<20+12345)
		must(t, err)
	}
	must(t, f.Truncate(20<<20))
	must(t, f.Close())
	cmd := exec.Command("tar", append(args, "-C", src, "-cf", "-", ".")...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	return out
}

func TestExactDiff(t *testing.T) {
	e := newEnv(t)
	c := e.serve()
	plain, err := overlay2.Init(filepath.Join(e.dir, "plain"), nil, user.IdentityMapping{})
	must(t, err)
	n := 0
	for name, data := range nastyTars(t) {
		n++
		id := fmt.Sprintf("layer%d", n)
		t.Run(name, func(t *testing.T) {
			must(t, c.Create(id, "", nil))
			size, err := c.ApplyDiff(id, "", bytes.NewReader(data))
			must(t, plain.Create(id, "", nil))
			wantSize, plainErr := plain.ApplyDiff(id, "", bytes.NewReader(data))
			if err != nil && plainErr != nil && name == "tar-sparse-gnu" {
				return // Docker's untar doesn't know this type of entry
			}
			must(t, plainErr)
			must(t, err)
			if size != wantSize {
				t.Errorf("size %d, overlay2 says %d", size, wantSize)
			}
			if got, want := listing(t, e.d.diffDir(id)), listing(t, filepath.Join(e.dir, "plain", id, "diff")); got != want {
				t.Errorf("unpacked:\n%s\noverlay2:\n%s", got, want)
			}
			rc, err := c.Diff(id, "")
			must(t, err)
			defer rc.Close()
			var got bytes.Buffer
			_, err = got.ReadFrom(rc)
			must(t, err)
			if !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d bytes came back of %d, first difference at %d", got.Len(), len(data), firstDifference(got.Bytes(), data))
			}
			if diffSize, err := c.DiffSize(id, ""); err != nil || diffSize != size {
				t.Errorf("diff size %d, %v; applied %d", diffSize, err, size)
			}
		})
	}
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// listing renders all of a tree that a container could see.
func listing(t testing.TB, root string) string {
	t.Helper()
	var out strings.Builder
	first := make(map[uint64]string)
	must(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&out, "%q %o %d:%d rdev=%d size=%d", rel, st.Mode, st.Uid, st.Gid, st.Rdev, fi.Size())
		// an entry without a time of its own has that of its making
		if time.Since(fi.ModTime()).Abs() > time.Hour {
			fmt.Fprintf(&out, " %s", fi.ModTime().UTC().Format(time.RFC3339Nano))
		}
		if st.Nlink > 1 && !fi.IsDir() {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			fmt.Fprintf(&out, " same as %q", first[st.Ino])
		}
		switch {
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %x", sha256.Sum256(data))
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " -> %q", to)
		}
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(path, names)
		if err != nil {
			return err
		}
		list := strings.Split(string(names[:n]), "\x00")
		slices.Sort(list) // they lie in the order in which they were set
		for _, name := range list {
			if name == "" {
				continue
			}
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %s=%q", name, value[:n])
		}
		out.WriteByte('\n')
		return nil
	}))
	return out.String()
}

// A file that occurs twice with content can't be given back, so it is refused as Docker refuses it.
func TestDuplicateFile(t *testing.T) {
	e := newEnv(t)
	must(t, e.d.Create("dup", "", CreateOptions{}))
	_, err := e.d.ApplyDiff("dup", "", bytes.NewReader(makeTar(t, reg("f", "one"), reg("./f", "two"))))
	if err == nil || !strings.Contains(err.Error(), "occurs twice") {
		t.Fatalf("got %v", err)
	}
	must(t, e.d.Remove("dup"))
}

// Attributes that overlayfs would obey don't reach the disk, but come back in the diff.
func TestOverlayAttributes(t *testing.T) {
	e := newEnv(t)
	records := map[string]string{
		"SCHILY.xattr.trusted.overlay.opaque":   "y",
		"SCHILY.xattr.trusted.overlay.redirect": "/etc",
		"SCHILY.xattr.trusted.other":            "kept",
	}
	data := makeTar(t,
		file{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: records, Format: tar.FormatPAX}, ""},
		file{tar.Header{Name: "f", PAXRecords: records, Format: tar.FormatPAX}, "SCHILY.xattr.trusted.overlay.opaque in content stays"})
	e.layer("attr", "", data)
	for _, name := range []string{"d", "f"} {
		path := filepath.Join(e.d.diffDir("attr"), name)
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(path, names)
		must(t, err)
		if got := string(names[:n]); strings.Contains(got, "trusted.overlay") || !strings.Contains(got, "trusted.other") {
			t.Errorf("%s has attributes %q", name, got)
		}
	}
	content, err := os.ReadFile(filepath.Join(e.d.diffDir("attr"), "f"))
	must(t, err)
	if !strings.HasPrefix(string(content), "SCHILY.xattr.trusted") {
		t.Errorf("content is %q", content)
	}
	if !bytes.Equal(e.diff("attr", ""), data) {
		t.Error("the diff is not the tar that came")
	}
}
