// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKillWhileMounting kills workers at random moments of mounting and
// unmounting. Whatever the caller was told, asking again must work.
func TestKillWhileMounting(t *testing.T) {
	k := startKeeper(t, 2*time.Minute)
	spec := goldenSpec(t, "dir-v6-zstd")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		last := 0
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(5+i*7%60) * time.Millisecond):
			}
			if pid := k.worker(t); pid != last {
				unix.Kill(pid, unix.SIGKILL)
				last = pid
			}
		}
	})
	dir := mountDir(t)
	retries := 0
	again := func(r request) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; retries++ {
			a, err := k.call(r)
			if err == nil && a.Error == "" {
				return
			}
			if a.Error != "" || time.Now().After(end) {
				t.Fatalf("%s: %v %s", r.Op, err, a.Error)
			}
		}
	}
	for range 30 {
		again(request{Op: "mount", ID: "m", Spec: spec, Target: dir})
		if _, err := os.ReadDir(dir); err != nil {
			t.Fatal("first access:", err)
		}
		again(request{Op: "unmount", ID: "m"})
		if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
			t.Fatalf("after unmount: %d names, %v", len(names), err)
		}
	}
	close(stop)
	wg.Wait()
	if retries == 0 {
		t.Error("no call was ever interrupted: the test tests nothing")
	}
}

// TestHalfDeadWorker kills a worker that waits for its own mount. It cannot
// end before somebody answers, so the keeper must not wait for its end.
func TestHalfDeadWorker(t *testing.T) {
	k := startKeeper(t, time.Minute)
	dir := mountDir(t)
	k.mount(t, request{ID: "m", Spec: goldenSpec(t, "dir-v6-zstd"), Target: dir})
	pid := k.worker(t)
	go k.call(request{Op: "touch", Target: dir})
	deadline := time.Now().Add(10 * time.Second)
	for k.worker(t) == pid {
		if time.Now().After(deadline) {
			t.Fatal("no other worker")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.ReadDir(dir); err != nil {
		t.Error(err)
	}
	wantListing(t, dir, "dir.jsonl")
}

// TestKeeperDeath: with all descriptors closed the mount is dead, which users
// learn at once, and a new keeper mounts in its place.
func TestKeeperDeath(t *testing.T) {
	k := startKeeper(t, time.Minute)
	dir := mountDir(t)
	spec := goldenSpec(t, "dir-v6-zstd")
	k.mount(t, request{ID: "m", Spec: spec, Target: dir})
	f, err := os.Open(filepath.Join(dir, "sizes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	k.proc.Kill()
	k.wait()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := os.ReadDir(dir)
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("dead mount: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	k2 := startKeeper(t, time.Minute)
	k2.mount(t, request{ID: "m", Spec: spec, Target: dir})
	wantListing(t, dir, "dir.jsonl")
}

// TestBrokenImageAfterRestart: a bootstrap that has gone makes its own mount
// fail, no other one, and nobody waits.
func TestBrokenImageAfterRestart(t *testing.T) {
	k := startKeeper(t, time.Minute)
	good, bad := mountDir(t), mountDir(t)
	spec := goldenSpec(t, "dir-v6-zstd")
	k.mount(t, request{ID: "good", Spec: spec, Target: good})
	data, err := os.ReadFile(spec.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	copied := spec
	copied.Bootstrap = filepath.Join(t.TempDir(), "bootstrap")
	if err := os.WriteFile(copied.Bootstrap, data, 0o600); err != nil {
		t.Fatal(err)
	}
	k.mount(t, request{ID: "bad", Spec: copied, Target: bad})
	if err := os.Remove(copied.Bootstrap); err != nil {
		t.Fatal(err)
	}
	pid := k.worker(t)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(bad, &st); err != unix.EIO {
		t.Errorf("mount without bootstrap: %v, want EIO", err)
	}
	wantListing(t, good, "dir.jsonl")
	a, err := k.call(request{Op: "list"})
	if err != nil || len(a.List) != 2 || a.List[0].ID != "bad" || a.List[0].Error == "" || a.List[1].Error != "" {
		t.Errorf("list: %+v, %v", a.List, err)
	}
	// Once the file is back, mounting again mends it.
	if err := os.WriteFile(copied.Bootstrap, data, 0o600); err != nil {
		t.Fatal(err)
	}
	k.mount(t, request{ID: "bad", Spec: copied, Target: bad})
	wantListing(t, bad, "dir.jsonl")
}

// TestUnmountInUse: an overlayfs above an unmounted mount goes on working, even
// when the worker changes.
func TestUnmountInUse(t *testing.T) {
	k := startKeeper(t, time.Minute)
	dir := mountDir(t)
	k.mount(t, request{ID: "m", Spec: goldenSpec(t, "dir-v6-zstd"), Target: dir})
	over := overlay(t, dir)
	if a, err := k.call(request{Op: "unmount", ID: "m"}); err != nil || a.Error != "" {
		t.Fatal(err, a.Error)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Fatalf("after unmount: %d names, %v", len(names), err)
	}
	if err := unix.Kill(k.worker(t), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(over, &st); err != nil {
		t.Error(err)
	}
	wantListing(t, over, "dir.jsonl")
	// The id is free meanwhile.
	k.mount(t, request{ID: "m", Spec: goldenSpec(t, "dir-v6-zstd"), Target: dir})
	wantListing(t, dir, "dir.jsonl")
}

// TestManyMounts: a worker takes over more mounts than the packets of its socket
// can hold.
func TestManyMounts(t *testing.T) {
	const n = 300
	k := startKeeper(t, time.Minute)
	spec := goldenSpec(t, "dir-v6-zstd")
	spec.Probe = false
	spec.Repositories = []string{strings.Repeat("r", 4000)}
	var dirs []string
	for i := range n {
		dir := mountDir(t)
		k.mount(t, request{ID: fmt.Sprint("m", i), Spec: spec, Target: dir})
		dirs = append(dirs, dir)
	}
	if err := unix.Kill(k.worker(t), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for _, dir := range dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d mounts are back after %v", n, time.Since(start))
	a, err := k.call(request{Op: "list"})
	if err != nil || len(a.List) != n {
		t.Errorf("list: %d, %v", len(a.List), err)
	}
}

// TestStop: SIGTERM to the keeper leaves no mount.
func TestStop(t *testing.T) {
	k := startKeeper(t, time.Minute)
	dir := mountDir(t)
	k.mount(t, request{ID: "m", Spec: goldenSpec(t, "dir-v6-zstd"), Target: dir})
	if err := k.proc.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := k.wait(); err != nil {
		t.Error("keeper:", err)
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != unix.EINVAL {
		t.Errorf("unmount: %v, want EINVAL: nothing mounted", err)
	}
}

// TestKillBeforeInit: a worker dies when the mount stands and nobody has
// answered the kernel's INIT yet.
func TestKillBeforeInit(t *testing.T) {
	k := startKeeper(t, time.Minute)
	dir := mountDir(t)
	spec := goldenSpec(t, "dir-v6-zstd")
	if _, err := k.call(request{Op: "mount and die", ID: "m", Spec: spec, Target: dir}); err == nil {
		t.Fatal("the worker lives")
	}
	wantListing(t, dir, "dir.jsonl") // waits for the next one
	k.mount(t, request{ID: "m", Spec: spec, Target: dir})
}

// TestAbort: a connection ended from outside is cleaned up, and the image can
// be mounted again.
func TestAbort(t *testing.T) {
	k := startKeeper(t, time.Minute)
	dir := mountDir(t)
	spec := goldenSpec(t, "dir-v6-zstd")
	for range 3 {
		k.mount(t, request{ID: "m", Spec: spec, Target: dir})
		wantListing(t, dir, "dir.jsonl")
		if err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			a, err := k.call(request{Op: "list"})
			if err != nil || time.Now().After(end) {
				t.Fatalf("list: %+v, %v", a, err)
			}
			if len(a.List) == 0 {
				break
			}
		}
	}
}

// TestCrashingRequest: a request that makes every worker crash is answered with
// an error in the end, and the others go on.
func TestCrashingRequest(t *testing.T) {
	k := startKeeper(t, time.Minute, envCrash+"=1")
	dir := mountDir(t)
	spec := goldenSpec(t, "dir-v6-zstd")
	spec.Probe = false
	k.mount(t, request{ID: "m", Spec: spec, Target: dir})
	s := filepath.Join(dir, "sizes")
	files, err := os.ReadDir(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		fi, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if fi.Size() == 0 {
			continue
		}
		if _, err := os.ReadFile(filepath.Join(s, f.Name())); !isErrno(err, unix.EIO) {
			t.Errorf("read that crashes: %v, want EIO", err)
		}
		break
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "deep"), &st); err != nil {
		t.Errorf("stat beside it: %v", err)
	}
}
