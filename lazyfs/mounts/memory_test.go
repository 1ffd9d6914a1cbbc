// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// statusKB returns fields of /proc/<pid>/status.
func statusKB(t *testing.T, pid int, names ...string) map[string]int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		for _, n := range names {
			if n == name {
				v, err := strconv.Atoi(strings.Fields(value)[0])
				if err != nil {
					t.Fatal(err)
				}
				m[n] = v
			}
		}
	}
	return m
}

// TestMemory: a mount in use costs the server less than 2 MB, bootstrap pages,
// which are the page cache's, not counted.
func TestMemory(t *testing.T) {
	const n = 25
	spec := goldenSpec(t, "dir-v6-zstd")
	s := startServer(t, t.TempDir())
	use := func(i int) {
		dir := s.mount(t, fmt.Sprint("m", i), spec)
		list, err := learn(dir)
		if err != nil || len(list) < 100 {
			t.Fatalf("%d entries, %v", len(list), err)
		}
	}
	settled := func() map[string]int {
		time.Sleep(200 * time.Millisecond)
		return statusKB(t, s.cmd.Process.Pid, "RssAnon", "RssShmem", "Threads")
	}
	for i := range 10 { // what all mounts share
		use(i)
	}
	before := settled()
	for i := range n {
		use(10 + i)
	}
	after := settled()
	perMount := (after["RssAnon"] + after["RssShmem"] - before["RssAnon"] - before["RssShmem"]) / n
	t.Logf("before %v, after %v kB: %d kB for each of %d mounts", before, after, perMount, n)
	if perMount > 2000 {
		t.Errorf("%d kB for each mount", perMount)
	}
}
