// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is Linux's USER_HZ, the same on all architectures that Go has.
const clockTick = time.Second / 100

// CPU returns what the daemon, its children that have ended, its containerd, and the plugin's processes have used so far:
// a second witness beside the clock on a busy machine.
func (d *Daemon) CPU(t TB) time.Duration {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatalf("CPU time: %v", err)
	}
	var sum time.Duration
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if pid == d.cmd.Process.Pid || parentOf(pid) == d.cmd.Process.Pid || d.owns(pid) && isPlugin(pid) {
			sum += cpuOf(pid)
		}
	}
	return sum
}

// cpuOf is the time that a process and its children that have ended have used; 0 if it has gone.
func cpuOf(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 15 {
		return 0
	}
	var ticks time.Duration
	for _, s := range f[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.Atoi(s)
		ticks += time.Duration(n)
	}
	return ticks * clockTick
}
