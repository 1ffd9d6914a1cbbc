// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func isErrno(err error, want unix.Errno) bool { return errors.Is(err, want) }

func TestReads(t *testing.T) {
	sizes := []int{0, 1, 4095, 4096, 4097, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 123}
	var entries []entry
	for _, n := range sizes {
		entries = append(entries, file(fmt.Sprint("f", n), 0o644, noise(n)))
	}
	dir := show(t, entries...)
	for _, n := range sizes {
		path := filepath.Join(dir, fmt.Sprint("f", n))
		want := noise(n)
		dropCaches(t)
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, want) {
				t.Errorf("read: %d bytes, %v", len(b), err)
			}
			k := known{path: path, data: want}
			k.stat.Mode = unix.S_IFREG
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			for name, op := range map[string]func(*rand.Rand, *known) error{"pread": pread, "direct": direct, "mmap": mapped} {
				for range 10 {
					if err := op(rnd, &k); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			sendfile(t, path, want)
			beyondEnd(t, path, n)
		})
	}
}

func sendfile(t *testing.T, path string, want []byte) {
	t.Helper()
	f, err := uncached(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for {
		n, err := unix.Sendfile(int(out.Fd()), int(f.Fd()), nil, 1<<20)
		if err != nil {
			t.Fatal("sendfile:", err)
		}
		if n == 0 {
			break
		}
	}
	if b, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(b, want) {
		t.Errorf("sendfile: %d bytes, %v", len(b), err)
	}
}

func beyondEnd(t *testing.T, path string, size int) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, off := range []int64{int64(size), int64(size) + 1, int64(size) + 1<<20, 1 << 62} {
		if n, err := unix.Pread(fd, make([]byte, 10), off); n != 0 || err != nil {
			t.Errorf("read at %d of %d: %d, %v", off, size, n, err)
		}
	}
}

func TestExec(t *testing.T) {
	b, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	dir := show(t, file("true", 0o755, b), file("script", 0o755, []byte("#!/bin/sh\necho from the image\n")), file("plain", 0o644, b))
	if err := exec.Command(filepath.Join(dir, "true")).Run(); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command(filepath.Join(dir, "script")).Output(); err != nil || string(out) != "from the image\n" {
		t.Errorf("script: %q, %v", out, err)
	}
	if err := exec.Command(filepath.Join(dir, "plain")).Run(); !isErrno(err, unix.EACCES) {
		t.Errorf("file without x: %v", err)
	}
}

// TestParallelReaders reads one cold file by 64 readers; once with a server that
// has a single processor.
func TestParallelReaders(t *testing.T) {
	want := noise(8 << 20)
	spec := build(t, file("f", 0o644, want))
	for _, procs := range []string{"", "1"} {
		t.Run("GOMAXPROCS="+procs, func(t *testing.T) {
			if procs != "" {
				t.Setenv("GOMAXPROCS", procs)
			}
			dir := startServer(t, t.TempDir()).mount(t, "m", spec)
			var wg sync.WaitGroup
			for i := range 64 {
				wg.Go(func() {
					k := known{path: filepath.Join(dir, "f"), data: want}
					k.stat.Mode = unix.S_IFREG
					rnd := rand.New(rand.NewPCG(2, uint64(i)))
					for range 8 {
						if err := pread(rnd, &k); err != nil {
							t.Error(err)
						}
					}
					if err := whole(rnd, &k); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestReadErrors takes the data away and brings it back: EIO, then all is well.
func TestReadErrors(t *testing.T) {
	want := noise(3 << 20)
	spec := build(t, file("f", 0o644, want), file("empty", 0o644, nil))
	aside := spec.BlobDirs[0] + ".aside"
	if err := os.Rename(spec.BlobDirs[0], aside); err != nil {
		t.Fatal(err)
	}
	dir := startServer(t, t.TempDir()).mount(t, "m", spec)
	path := filepath.Join(dir, "f")
	for range 2 {
		if _, err := os.ReadFile(path); !isErrno(err, unix.EIO) {
			t.Errorf("read without data: %v, want EIO", err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != int64(len(want)) {
		t.Errorf("stat without data: %v", err)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "empty")); err != nil {
		t.Error(err)
	}
	if err := os.Rename(aside, spec.BlobDirs[0]); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		b, err := os.ReadFile(path) // a blob that was surely absent is looked for again now and then
		if err == nil && bytes.Equal(b, want) {
			break
		}
		if err == nil || time.Now().After(end) {
			t.Fatalf("read with data again: %d bytes, %v", len(b), err)
		}
	}
}

func TestStatfs(t *testing.T) {
	dir := show(t, file("f", 0o644, noise(1<<20)))
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Bsize != 4096 || st.Blocks < 256 || st.Bfree != 0 || st.Files < 2 || st.Namelen != 255 || st.Flags&unix.ST_RDONLY == 0 {
		t.Errorf("statfs: %+v", st)
	}
}
