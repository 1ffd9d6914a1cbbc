// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// needed are the capabilities that lighter keeps; docs/plugin.md says what for.
// Docker gives a plugin those of a container, and what its manifest asks for.
var needed = []uint{
	unix.CAP_SYS_ADMIN,
	unix.CAP_MKNOD,
	unix.CAP_CHOWN,
	unix.CAP_DAC_OVERRIDE,
	unix.CAP_FOWNER,
	unix.CAP_FSETID,
	unix.CAP_SETFCAP,
}

// dropCapabilities gives up, in every thread and for all processes started from
// now on, the capabilities that are not needed.
func dropCapabilities() error {
	var keep uint64
	for _, c := range needed {
		keep |= 1 << c
	}
	for c := range uint(64) {
		if keep&(1<<c) != 0 {
			continue
		}
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); errno == unix.EINVAL {
			break // the kernel has no more
		} else if errno != 0 {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, errno)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	for i := range data {
		mask := uint32(keep >> (32 * i))
		data[i].Permitted &= mask
		data[i].Effective &= mask
		data[i].Inheritable = 0
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}
