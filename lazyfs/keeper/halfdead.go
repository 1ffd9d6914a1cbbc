// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// halfDead reports whether the process has been killed and cannot end, since
// all threads that it still has wait for something without being interruptible:
// for an answer of a file system that it served itself. None of them will run
// its own code again, so another worker may take over, and must.
func halfDead(pid int) bool {
	if !ending(pid, pid) { // the cheap answer in all but this odd case
		return false
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false
	}
	stuck := false
	for _, e := range tasks {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			return false
		}
		state, killed := task(pid, tid)
		switch {
		case state == 0, state == 'Z', state == 'X': // gone
		case state == 'D' && killed:
			stuck = true
		default:
			return false
		}
	}
	return stuck
}

// ending reports whether a thread has ended or has been killed.
func ending(pid, tid int) bool {
	state, killed := task(pid, tid)
	return state == 'Z' || state == 'X' || killed
}

// task returns a thread's state, 0 if there is no such thread, and whether
// SIGKILL awaits it. The kernel sends that to every thread of a dying process.
func task(pid, tid int) (state byte, killed bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, tid))
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch {
		case name == "State" && value != "":
			state = value[0]
		case name == "SigPnd":
			mask, err := strconv.ParseUint(value, 16, 64)
			killed = err == nil && mask&(1<<(unix.SIGKILL-1)) != 0
		}
	}
	return state, killed
}
