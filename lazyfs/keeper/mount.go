// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// SlotsSize is the length in bytes of each mount's shared memory.
	SlotsSize = 1 << 20
	// initSize is the least buffer that the kernel accepts for a request.
	initSize = 8 << 10
	// initTimeout is how long the kernel's INIT may take. It is sent while
	// mounting, so any wait at all means that something is wrong.
	initTimeout = 5 * time.Second

	mountFlags   = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME
	mountOptions = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
)

// Mount is a FUSE mount with the descriptors that serve it. Whoever receives
// one owns its files, and closes them when the connection has ended.
type Mount struct {
	// Serial tells this mount from all others that this keeper made.
	Serial uint64
	// ID is the caller's name for it; one mount per ID is attached at a time.
	ID string
	// Target is where it is mounted, or was, if Detached.
	Target string
	// Detached mounts have been unmounted, but are still in use.
	Detached bool
	// Meta is what the worker stored with it.
	Meta []byte
	// Init is the kernel's INIT request as read from Dev.
	Init []byte
	// Dev is /dev/fuse, blocking.
	Dev *os.File
	// Slots is the memory file of SlotsSize bytes for requests in flight.
	Slots *os.File

	mount uint64 // the kernel's id of the mount, 0 if not known
}

// Close closes the files. The mount itself is not changed.
func (m *Mount) Close() error {
	var errs []error
	for _, f := range []*os.File{m.Dev, m.Slots} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// share returns m with descriptors of its own.
func (m *Mount) share() (*Mount, error) {
	c := *m
	var err error
	if c.Dev, err = duplicate(m.Dev); err != nil {
		return nil, err
	}
	if c.Slots, err = duplicate(m.Slots); err != nil {
		c.Dev.Close()
		return nil, err
	}
	return &c, nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// open makes the mount that m describes and fills in Init, Dev and Slots.
func (m *Mount) open() (err error) {
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if err := clearTarget(m.Target); err != nil {
		return err
	}
	// Not os.OpenFile: that sets O_NONBLOCK, which all processes would share.
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	m.Dev = os.NewFile(uintptr(dev), "/dev/fuse")
	slots, err := unix.MemfdCreate("lighter-slots", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memory file: %w", err)
	}
	m.Slots = os.NewFile(uintptr(slots), "slots")
	if err := unix.Ftruncate(slots, SlotsSize); err != nil {
		return fmt.Errorf("memory file: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(slots), unix.F_ADD_SEALS,
		unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("seal memory file: %w", err)
	}
	err = unix.Mount("lighter", m.Target, "fuse.lighter", mountFlags, fmt.Sprintf(mountOptions, dev))
	if err != nil {
		return fmt.Errorf("mount on %s: %w", m.Target, err)
	}
	m.mount = mountID(m.Target)
	if m.Init, err = readInit(dev); err != nil {
		return errors.Join(fmt.Errorf("INIT of the mount on %s: %w", m.Target, err), m.unmount())
	}
	return nil
}

// mountID returns the kernel's id of the topmost mount on target, 0 if it cannot
// be told (before Linux 5.8); it may be used again later (before 6.8). A mount
// without a server is not asked.
func mountID(target string) uint64 {
	var stx unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, target, unix.AT_STATX_DONT_SYNC|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE, &stx)
	if err != nil || stx.Mask&(unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE) == 0 {
		return 0
	}
	return stx.Mnt_id
}

// gone reports whether something else is on the target now: the mount was
// removed by somebody else, or lies below another one.
func (m *Mount) gone() bool {
	id := mountID(m.Target)
	return id != 0 && m.mount != 0 && id != m.mount
}

func readInit(dev int) ([]byte, error) {
	p := []unix.PollFd{{Fd: int32(dev), Events: unix.POLLIN}}
	for end := time.Now().Add(initTimeout); ; {
		n, err := unix.Poll(p, int(max(0, time.Until(end).Milliseconds())))
		if n == 1 {
			break
		}
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			err = os.ErrDeadlineExceeded
		}
		return nil, err
	}
	buf := make([]byte, initSize)
	for {
		n, err := unix.Read(dev, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n:n], nil
	}
}

// unmount takes the mount away from its target. Whoever has files open there, or
// an overlayfs above it, can go on. A mount that is not there is no error.
func (m *Mount) unmount() error {
	if m.gone() {
		return nil
	}
	err := unix.Unmount(m.Target, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		err = unix.Unmount(m.Target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return unmountError(m.Target, err)
}

// abort takes the mount away, and ends its connection: whoever still uses it
// gets errors.
func (m *Mount) abort() error {
	if m.gone() {
		return nil
	}
	return unmountError(m.Target, unix.Unmount(m.Target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH|unix.MNT_FORCE))
}

func unmountError(target string, err error) error {
	if err == nil || err == unix.EINVAL || err == unix.ENOENT {
		return nil // nothing is mounted there
	}
	return fmt.Errorf("unmount %s: %w", target, err)
}

// clearTarget removes a dead FUSE mount, left by a keeper that was killed, and
// refuses a living one.
func clearTarget(target string) error {
	for range 16 {
		// A cached answer: a mount without a server must not be asked.
		var stx unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, target, unix.AT_STATX_DONT_SYNC|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &stx)
		if err == nil && stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return nil
		}
		if err != nil && err != unix.ENOTCONN {
			return fmt.Errorf("mount on %s: %w", target, err)
		}
		var sfs unix.Statfs_t
		switch err := unix.Statfs(target, &sfs); {
		case err == unix.ENOTCONN, err == unix.ECONNABORTED:
			if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount dead mount on %s: %w", target, err)
			}
		case err == nil && sfs.Type == unix.FUSE_SUPER_MAGIC:
			return fmt.Errorf("mount on %s: a FUSE file system is mounted there: %w", target, unix.EBUSY)
		default:
			return nil // whatever it is, it can be mounted over
		}
	}
	return fmt.Errorf("mount on %s: too many dead mounts: %w", target, unix.EBUSY)
}
