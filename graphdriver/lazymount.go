// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lazyLayer is the mount of one bootstrap layer. It stands while it has users, and Options.Linger longer.
type lazyLayer struct {
	d      *Driver
	id     string
	record *record

	mu      sync.Mutex
	users   map[string]int // layer id (or the name of an operation) → how often
	mounted bool           // by this process
	gone    bool           // removed: no more mounts
	timer   *time.Timer
}

// acquire mounts the layer for a user, if it is not mounted yet.
func (l *lazyLayer) acquire(user string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return fmt.Errorf("lazy layer %s: it was removed", l.id)
	}
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	target := l.d.diffDir(l.id)
	if l.mounted && len(l.users) == 0 {
		// Someone outside may have unmounted it meanwhile.
		if depth, err := mountDepth(target); err != nil || depth == 0 {
			l.mounted = false
		}
	}
	if !l.mounted {
		if err := l.mount(target); err != nil {
			return fmt.Errorf("mount lazy layer %s: %w", l.id, err)
		}
		l.mounted = true
	}
	l.users[user]++
	return nil
}

func (l *lazyLayer) mount(target string) error {
	if err := detachDead(target); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.d.o.MountTimeout)
	defer cancel()
	return l.d.o.Mounter.Mount(ctx, l.id, l.d.spec(l.record), target)
}

// release gives back one acquire of a user.
func (l *lazyLayer) release(user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(user, l.users[user]-1)
}

// setUser says how often a user uses the layer, whatever it was before.
func (l *lazyLayer) setUser(user string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(user, n)
}

func (l *lazyLayer) isMounted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mounted
}

// set enters a user's count. When the last user leaves, the layer is unmounted, now or a little later. l.mu is held.
func (l *lazyLayer) set(user string, n int) {
	if n > 0 {
		l.users[user] = n
		return
	}
	if _, ok := l.users[user]; !ok {
		return
	}
	delete(l.users, user)
	if len(l.users) > 0 || l.gone {
		return
	}
	if l.d.o.Linger < 0 {
		if err := l.unmount(); err != nil {
			l.d.log.Warn("unmount lazy layer", "layer", l.id, "error", err)
		}
		return
	}
	var t *time.Timer
	t = time.AfterFunc(l.d.o.Linger, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.timer != t || len(l.users) > 0 || l.gone {
			return
		}
		l.timer = nil
		if err := l.unmount(); err != nil {
			l.d.log.Warn("unmount lazy layer", "layer", l.id, "error", err)
		}
	})
	l.timer = t
}

// drop unmounts the layer whoever uses it. With forever it is not mounted again.
func (l *lazyLayer) drop(forever bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.gone = forever
	clear(l.users)
	return l.unmount()
}

// unmount leaves no mount at the layer's directory, also none that a former process has made. l.mu is held.
func (l *lazyLayer) unmount() error {
	target := l.d.diffDir(l.id)
	ctx, cancel := context.WithTimeout(context.Background(), l.d.o.MountTimeout)
	defer cancel()
	err := l.d.o.Mounter.Unmount(ctx, l.id)
	for {
		depth, depthErr := mountDepth(target)
		if depthErr != nil {
			return errors.Join(err, depthErr)
		}
		if depth == 0 {
			l.mounted = false
			return err
		}
		if uErr := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); uErr != nil {
			return errors.Join(err, &os.PathError{Op: "unmount", Path: target, Err: uErr})
		}
	}
}
