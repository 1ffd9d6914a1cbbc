// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"os/exec"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// own are the children that somebody waits for by their process id.
var own = struct {
	sync.Mutex
	pids map[int]bool
}{pids: map[int]bool{}}

// startOwn starts cmd so that reapOthers leaves it alone until waitOwn.
func startOwn(cmd *exec.Cmd) error {
	own.Lock() // it may end before it is known
	defer own.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	own.pids[cmd.Process.Pid] = true
	return nil
}

func waitOwn(cmd *exec.Cmd) error {
	err := cmd.Wait()
	own.Lock()
	defer own.Unlock()
	delete(own.pids, cmd.Process.Pid)
	return err
}

// reapOthers collects every dead child that nobody waits for.
func reapOthers() {
	for tries := 0; tries < 100; {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		pid := siginfoPid(&info)
		if err != nil || pid == 0 {
			return
		}
		own.Lock()
		if own.pids[pid] {
			own.Unlock()
			tries++
			time.Sleep(10 * time.Millisecond) // it stands before the others in the queue
			continue
		}
		unix.Wait4(pid, nil, unix.WNOHANG, nil)
		own.Unlock()
	}
}

// siginfoPid returns si_pid. It is the first member of a union that is aligned
// to pointers, behind three 32-bit words.
func siginfoPid(info *unix.Siginfo) int {
	const union = (3*4 + unsafe.Sizeof(uintptr(0)) - 1) &^ (unsafe.Sizeof(uintptr(0)) - 1)
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), union)))
}
