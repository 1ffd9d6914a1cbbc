// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKernelCaches stops the server: what was used once, the kernel must be able
// to give again by itself.
func TestKernelCaches(t *testing.T) {
	want := noise(1 << 20)
	s := startServer(t, t.TempDir())
	dir := s.mount(t, "m", build(t, directory("d/"), file("d/f", 0o644, want), file("d/g", 0o644, nil), link("l", "d/f")))
	use := func() error {
		if b, err := os.ReadFile(filepath.Join(dir, "l")); err != nil || !bytes.Equal(b, want) {
			t.Errorf("read: %d bytes, %v", len(b), err)
		}
		for _, d := range []string{".", "d"} {
			if _, err := names(filepath.Join(dir, d)); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "d/g")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "absent")); !isErrno(err, unix.ENOENT) {
			t.Errorf("absent: %v", err)
		}
		return nil
	}
	use()
	use()
	if err := s.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- use() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the kernel asks again for what it has seen")
	}
	if err := s.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		<-done
	}
}
