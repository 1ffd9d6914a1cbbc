// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what processes could leak.
type usage struct {
	fds, threads, mounts int
}

func measure(t *testing.T, pids ...int) usage {
	t.Helper()
	var u usage
	for _, pid := range pids {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			t.Fatal(err)
		}
		u.fds += len(fds)
		u.threads += len(tasks)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	u.mounts = strings.Count(string(b), filepath.Join(os.TempDir(), mountPrefix))
	return u
}

// TestMountSoak mounts, reads and unmounts eight at a time: 1,000 times, or
// 10,000 with LIGHTER_SOAK=1. The first access after each mount must succeed.
func TestMountSoak(t *testing.T) {
	n := 1000
	if os.Getenv("LIGHTER_SOAK") == "1" {
		n = 10_000
	}
	k := startKeeper(t, time.Minute+time.Duration(n)*30*time.Millisecond)
	spec := goldenSpec(t, "dir-v6-zstd")
	ref := mountDir(t)
	k.mount(t, request{ID: "ref", Spec: spec, Target: ref})
	want, err := firstFile(ref)
	if err != nil {
		t.Fatal(err)
	}

	var next atomic.Int64
	worker := k.worker(t)
	round := func(n int) {
		next.Store(0)
		var wg sync.WaitGroup
		for w := range 8 {
			dir := mountDir(t)
			wg.Go(func() {
				for int(next.Add(1)) <= n {
					if err := once(k, request{ID: fmt.Sprint("m", w), Spec: spec, Target: dir}, want); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	round(64) // threads and buffers that stay are there after this
	before := measure(t, k.proc.Pid, worker)
	start := time.Now()
	round(n)
	took := time.Since(start)
	var after usage
	for range 100 { // what ends beside the last call
		if after = measure(t, k.proc.Pid, worker); after.fds <= before.fds && after.threads <= before.threads+8 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d mounts in %v, %.0f/s; before %+v, after %+v", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), before, after)
	if after.fds > before.fds+8 || after.threads > before.threads+8 || after.mounts > before.mounts {
		t.Errorf("leak: before %+v, after %+v", before, after)
	}
	if k.worker(t) != worker {
		t.Error("the worker was replaced")
	}
}

// sample is a file of a tree.
type sample struct {
	name string
	data []byte
}

// firstFile returns a file of a few pages.
func firstFile(dir string) (sample, error) {
	var s sample
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil || s.name != "" || !fi.Mode().IsRegular() || fi.Size() < 4096 || fi.Size() > 1<<20 {
			return err
		}
		s.name, err = filepath.Rel(dir, p)
		if err == nil {
			s.data, err = os.ReadFile(p)
		}
		return err
	})
	if err == nil && s.name == "" {
		err = os.ErrNotExist
	}
	return s, err
}

func once(k *kept, r request, want sample) error {
	r.Op = "mount"
	if a, err := k.call(r); err != nil || a.Error != "" {
		return fmt.Errorf("mount: %v %s", err, a.Error)
	}
	var st unix.Stat_t
	if err := unix.Stat(r.Target, &st); err != nil {
		return fmt.Errorf("first stat: %w", err)
	}
	if names, err := os.ReadDir(r.Target); err != nil || len(names) == 0 {
		return fmt.Errorf("first list: %d names, %v", len(names), err)
	}
	if b, err := os.ReadFile(filepath.Join(r.Target, want.name)); err != nil || !bytes.Equal(b, want.data) {
		return fmt.Errorf("first read: %d bytes, %v", len(b), err)
	}
	r.Op = "unmount"
	if a, err := k.call(r); err != nil || a.Error != "" {
		return fmt.Errorf("unmount: %v %s", err, a.Error)
	}
	return nil
}
