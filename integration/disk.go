// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"os/exec"
	"time"
)

// OwnDisk puts a new Env, before anything is in it, on a file system of its own with so many bytes, for measurements: how
// long ext4 takes to make a file depends on what others have removed from the same file system, by a factor of twenty on
// one without a journal.
func (e *Env) OwnDisk(t TB, size int64) {
	t.Helper()
	f, err := os.CreateTemp(tempBase(), "lighter-disk-")
	if err != nil {
		t.Fatalf("own disk: %v", err)
	}
	defer os.Remove(f.Name()) // the mount keeps it
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatalf("own disk: %v", err)
	}
	runCommand(t, time.Minute, exec.Command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", f.Name()))
	runCommand(t, time.Minute, exec.Command("mount", "-o", "loop", f.Name(), e.Dir))
}
