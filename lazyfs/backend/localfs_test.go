// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

// TestDirRefuses: what is no regular file below the directory is not opened, and
// nothing waits for a pipe.
func TestDirRefuses(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := ID([]byte("x"))
	for name, place := range map[string]func(path string) error{
		"symlink out":          func(path string) error { return os.Symlink(outside, path) },
		"relative symlink out": func(path string) error { return os.Symlink("../../../../../../../../etc/passwd", path) },
		"directory":            func(path string) error { return os.Mkdir(path, 0o755) },
		"pipe":                 func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"symlink to itself":    func(path string) error { return os.Symlink(filepath.Base(path), path) },
	} {
		dir := t.TempDir()
		if err := place(filepath.Join(dir, id)); err != nil {
			t.Fatal(err)
		}
		if _, err := backend.NewDir(dir).Open(t.Context(), id); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "target"), []byte("inside"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", filepath.Join(dir, id)); err != nil {
		t.Fatal(err)
	}
	if b, err := backend.NewDir(dir).Open(t.Context(), id); err != nil || b.Size() != 6 {
		t.Errorf("symlink inside: %v", err)
	}
	if _, err := backend.NewDir(filepath.Join(dir, "absent")).Open(t.Context(), id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent directory: %v", err)
	}
}

// TestDirTruncated: a file that shrinks while it is open gives an error, and not
// a short read that looks like the end.
func TestDirTruncated(t *testing.T) {
	t.Parallel()
	content := Random(10_000, 60)
	dir := fill(t, "", content)
	b := Open(t, t.Context(), backend.NewDir(dir), content)
	if err := os.Truncate(filepath.Join(dir, ID(content)), 5000); err != nil {
		t.Fatal(err)
	}
	n, err := b.ReadAt(Context(t, time.Minute), make([]byte, 1000), 4500)
	if n != 500 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("%d, %v", n, err)
	}
	if err := b.(io.Closer).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("read after Close: %v", err)
	}
}
