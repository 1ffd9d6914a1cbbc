// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"errors"
	"os"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountDepth counts the mounts at exactly this path. It asks none of them.
func mountDepth(path string) (int, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil || len(mounts) == 0 {
		return 0, err
	}
	mounts, err = mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != path, false })
	return len(mounts), err
}

// answerTime is how long a mount may take to say that it is dead. One that says nothing is not.
const answerTime = 3 * time.Second

// detachDead takes away the mounts at path whose FUSE server is gone: the server's own, or overlays above it.
func detachDead(path string) error {
	for {
		depth, err := mountDepth(path)
		if err != nil || depth == 0 || !isDead(path) {
			return err
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

func isDead(path string) bool {
	dead := make(chan bool, 1)
	go func() {
		var st unix.Stat_t
		var fs unix.Statfs_t
		err := errors.Join(unix.Lstat(path, &st), unix.Statfs(path, &fs))
		dead <- errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
	}()
	select {
	case is := <-dead:
		return is
	case <-time.After(answerTime):
		return false
	}
}

// isOverlayMount tells whether an overlay is mounted at path.
func isOverlayMount(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC
}
