// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// dirent is one entry as getdents64(2) gives it.
type dirent struct {
	ino  uint64
	off  int64
	typ  byte
	name string
}

func getdents(fd int, size int) ([]dirent, error) {
	buf := make([]byte, size)
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return nil, err
	}
	var all []dirent
	for b := buf[:n]; len(b) > 0; {
		length := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := bytes.Cut(b[19:length], []byte{0})
		all = append(all, dirent{binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:])), b[18], string(name)})
		b = b[length:]
	}
	return all, nil
}

func listAll(dir string, size int) ([]dirent, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var all []dirent
	for {
		d, err := getdents(fd, size)
		if err != nil || len(d) == 0 {
			return all, err
		}
		all = append(all, d...)
	}
}

// dropCaches makes the kernel ask again for names, attributes and pages.
func dropCaches(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}

func bigDir(n int) (entries []entry, names []string) {
	entries = append(entries, directory("big/"))
	for i := range n {
		name := fmt.Sprintf("file-%06d-%s", i, strings.Repeat("n", i%50))
		names = append(names, name)
		entries = append(entries, file("big/"+name, 0o644, nil))
	}
	slices.Sort(names)
	return entries, names
}

func TestBigDirectories(t *testing.T) {
	for _, n := range []int{1_500, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			entries, names := bigDir(n)
			dir := filepath.Join(show(t, entries...), "big")
			want := append([]string{".", ".."}, names...)
			slices.Sort(want)
			check := func(size int) error {
				all, err := listAll(dir, size)
				if err != nil {
					return err
				}
				var got []string
				for _, d := range all {
					got = append(got, d.name)
					if d.typ != unix.DT_REG && d.name != "." && d.name != ".." || d.ino == 0 {
						return fmt.Errorf("entry %+v", d)
					}
				}
				slices.Sort(got)
				if !slices.Equal(got, want) {
					return fmt.Errorf("%d entries, want %d", len(got), len(want))
				}
				return nil
			}
			if err := check(32 << 10); err != nil {
				t.Fatal(err)
			}
			dropCaches(t)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					if err := check(1024 << i); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			seekDir(t, dir)
		})
	}
}

// seekDir goes back to remembered places of a directory, by the same and by
// another descriptor, with and without the kernel's caches.
func seekDir(t *testing.T, dir string) {
	t.Helper()
	all, err := listAll(dir, 4096)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, i := range []int{len(all) - 2, 0, 7, len(all) / 2, 1, len(all) / 3, len(all) - 1} {
		if i%3 == 0 {
			dropCaches(t)
		}
		if _, err := unix.Seek(fd, all[i].off, unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		got, err := getdents(fd, 4096)
		if err != nil {
			t.Fatal(err)
		}
		rest := all[i+1:]
		if len(got) > len(rest) || len(got) == 0 && len(rest) > 0 || !slices.Equal(got, rest[:len(got)]) {
			t.Errorf("after entry %d: %d entries beginning with %+v", i, len(got), got)
		}
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil { // rewinddir(3)
		t.Fatal(err)
	}
	if got, err := getdents(fd, 4096); err != nil || len(got) == 0 || got[0] != all[0] {
		t.Errorf("rewound: %+v, %v", got, err)
	}
}

func TestLookup(t *testing.T) {
	long := strings.Repeat("x", 255)
	dir := show(t, directory("a/"), file("a/"+long, 0o600, []byte("long")), file("a/b", 0o600, []byte("b")), link("l", "a/b"),
		link("far", "/"+strings.Repeat("t/", 2000)))
	for name, want := range map[string]error{
		"a": nil, "a/b": nil, "l": nil, "a/" + long: nil, "a/..": nil, "a/./b": nil,
		"absent": unix.ENOENT, "a/absent": unix.ENOENT, "a/b/c": unix.ENOTDIR, "a/" + long + "x": unix.ENAMETOOLONG,
	} {
		for range 2 { // asked, and remembered
			var st unix.Stat_t
			if err := unix.Stat(filepath.Clean(dir)+"/"+name, &st); err != want && !(err == nil && want == nil) {
				t.Errorf("stat %.20s: %v, want %v", name, err, want)
			}
		}
	}
	for range 2 {
		if got, err := os.Readlink(filepath.Join(dir, "far")); err != nil || got != "/"+strings.Repeat("t/", 2000) {
			t.Errorf("link of %d bytes, %v", len(got), err)
		}
	}
	if _, err := unix.Readlink(filepath.Join(dir, "a"), make([]byte, 10)); err != unix.EINVAL {
		t.Errorf("readlink of a directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); !isErrno(err, unix.EROFS) {
		t.Errorf("create: %v, want EROFS", err)
	}
}

// TestFileHandles opens by handles after the kernel has forgotten the nodes:
// never ESTALE.
func TestFileHandles(t *testing.T) {
	dir := show(t, directory("a/"), file("a/b", 0o600, []byte("data")))
	mnt, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mnt)
	for _, name := range []string{".", "a", "a/b"} {
		h, _, err := unix.NameToHandleAt(mnt, name, 0)
		if err != nil {
			t.Fatalf("handle of %s: %v", name, err)
		}
		var want, got unix.Stat_t
		if err := unix.Fstatat(mnt, name, &want, 0); err != nil {
			t.Fatal(err)
		}
		dropCaches(t)
		fd, err := unix.OpenByHandleAt(mnt, h, unix.O_RDONLY)
		if err != nil {
			t.Errorf("open %s by handle: %v", name, err)
			continue
		}
		if err := unix.Fstat(fd, &got); err != nil || got.Ino != want.Ino || got.Mode != want.Mode {
			t.Errorf("%s by handle: %+v, %v", name, got, err)
		}
		unix.Close(fd)
	}
}
