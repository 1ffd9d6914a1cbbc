// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// kills returns how many workers to kill; LIGHTER_KILLS overrides it.
func kills(t *testing.T, n int) int {
	t.Helper()
	if v, ok := os.LookupEnv("LIGHTER_KILLS"); ok {
		k, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	return n
}

// overlay mounts an overlayfs over lower.
func overlay(t *testing.T, lower string) string {
	t.Helper()
	tmp := mountDir(t)
	if err := unix.Mount("tmpfs", tmp, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(tmp, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := mountDir(t)
	err := unix.Mount("overlay", dir, "overlay", 0, "lowerdir="+lower+",upperdir="+tmp+"/upper,workdir="+tmp+"/work")
	if err != nil {
		t.Fatal("overlay:", err)
	}
	return dir
}

// reader is a process that compares.
type reader struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

func startReader(t *testing.T, tree string, seed int) *reader {
	t.Helper()
	cmd := role(t, "reader", "LIGHTER_TEST_TREE="+tree, "LIGHTER_TEST_SEED="+strconv.Itoa(seed), "GOMAXPROCS=2")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &reader{cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return r
}

func (r *reader) ready(t *testing.T) {
	t.Helper()
	if line, err := r.out.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("reader: %q, %v", line, err)
	}
}

func (r *reader) stop(t *testing.T) report {
	t.Helper()
	r.in.Close()
	var rep report
	if err := json.NewDecoder(r.out).Decode(&rep); err != nil {
		t.Fatalf("reader: %v", err)
	}
	return rep
}

// TestWorkerKills kills the worker again and again while other processes
// compare every byte, directly and through an overlayfs.
func TestWorkerKills(t *testing.T) {
	n := kills(t, 500)
	const pause = 100 * time.Millisecond
	k := startKeeper(t, 2*time.Minute+time.Duration(n)*4*pause)
	dir := mountDir(t)
	k.mount(t, request{ID: "golden", Spec: goldenSpec(t, "dir-v6-zstd"), Target: dir})
	wantListing(t, dir, "dir.jsonl")
	over := overlay(t, dir)
	var readers []*reader
	for i := range 8 {
		tree := dir
		if i%2 == 1 {
			tree = over
		}
		readers = append(readers, startReader(t, tree, i))
	}
	for _, r := range readers {
		r.ready(t)
	}

	start := time.Now()
	done := make(chan struct{})
	go dropNames(done)
	last := 0
	for i := 0; i < n; {
		// Every other one may die while it is still taking over.
		pid := k.worker(t)
		if pid != last && (i%2 == 1 || k.serving(t) == pid) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatalf("kill %d: %v", i, err)
			}
			last = pid
			i++
		}
		time.Sleep(pause)
		if time.Since(start) > 2*time.Minute+time.Duration(n)*3*pause {
			t.Fatalf("%d kills took %v", i, time.Since(start))
		}
	}
	close(done)
	took := time.Since(start)

	var ops int
	var longest report
	for i, r := range readers {
		rep := r.stop(t)
		ops += rep.Ops
		if rep.Longest > longest.Longest {
			longest = rep
		}
		for _, e := range rep.Errors {
			t.Errorf("reader %d: %s", i, e)
		}
		if rep.Ops < n {
			t.Errorf("reader %d: %d operations", i, rep.Ops)
		}
	}
	t.Logf("%d kills in %v, %d operations, longest %v (%s)", n, took.Round(time.Second), ops, longest.Longest, longest.Op)
	if longest.Longest > 2*time.Second {
		t.Errorf("a reader waited for %v (%s)", longest.Longest, longest.Op)
	}
	wantListing(t, dir, "dir.jsonl")
}

// dropNames makes the kernel forget names and attributes now and then, so that
// it has to ask for them.
func dropNames(done chan struct{}) {
	for {
		select {
		case <-time.After(time.Second):
			os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0) // a read-only /proc only makes the test weaker
		case <-done:
			return
		}
	}
}
