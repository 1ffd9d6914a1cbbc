// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attach makes this process the worker of a session, without a keeper process.
func attach(t *testing.T, table *table, files ...*os.File) *Client {
	t.Helper()
	ours, theirs, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Setenv(envFD, strconv.Itoa(fd))
	end := make(chan error, 1)
	go func() { end <- (&session{table: table, link: ours, crashes: 2}).serve(t.Context(), files) }()
	c, err := Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-end; err != nil {
			t.Error(err)
		}
		ours.c.Close()
	})
	return c
}

func newTestTable(t *testing.T) *table {
	t.Helper()
	tb := newTable(&prober{})
	t.Cleanup(func() {
		if err := tb.close(); err != nil {
			t.Error(err)
		}
	})
	return tb
}

// target returns a directory to mount on. Nothing of these tests serves a mount,
// so nobody may touch it.
func target(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lighter-keeper-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
		os.Remove(dir)
	})
	return dir
}

// mounted reports whether something is mounted on dir, without touching it.
func mounted(t *testing.T, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+dir+" ")
}

func devices(t *testing.T) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		l, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && (l == "/dev/fuse" || strings.Contains(l, "lighter-slots")) {
			n++
		}
	}
	return n
}

// TestMountLife follows one mount from worker to worker.
func TestMountLife(t *testing.T) {
	table := newTestTable(t)
	listener, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	a := attach(t, table, listener)
	if len(a.Kept()) != 0 || a.Listener("/dev/null") == nil || a.Listener("x") != nil || a.Crashes() != 2 {
		t.Errorf("first worker: %+v", a)
	}
	a.Listener("/dev/null").Close()
	dir := target(t)
	meta := []byte("opaque \x00\xff")
	m, err := a.Mount(t.Context(), "id", dir, meta)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !mounted(t, dir) || m.ID != "id" || m.Target != dir || len(m.Init) < 56 || m.Dev == nil || m.Slots == nil {
		t.Errorf("mount: %+v", m)
	}
	if flags, err := unix.FcntlInt(m.Dev.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags of the device: %#x, %v", flags, err)
	}
	if size, err := unix.Seek(int(m.Slots.Fd()), 0, unix.SEEK_END); err != nil || size != SlotsSize {
		t.Errorf("slots of %d bytes, %v", size, err)
	}
	if _, err := a.Mount(t.Context(), "id", target(t), nil); !errors.Is(err, ErrExists) {
		t.Errorf("second mount of an id: %v", err)
	}

	b := attach(t, table)
	kept := b.Kept()
	if len(kept) != 1 || kept[0].Serial != m.Serial || kept[0].Target != dir || string(kept[0].Meta) != string(meta) ||
		string(kept[0].Init) != string(m.Init) || kept[0].Detached {
		t.Fatalf("kept: %+v", kept)
	}
	defer kept[0].Close()
	for range 2 {
		if err := b.Unmount(t.Context(), m.Serial); err != nil {
			t.Error(err)
		}
	}
	if mounted(t, dir) {
		t.Error("still mounted")
	}
	c := attach(t, table)
	if kept := c.Kept(); len(kept) != 1 || !kept[0].Detached {
		t.Errorf("kept after unmount: %+v", kept)
	} else {
		kept[0].Close()
	}
	for range 2 {
		if err := c.Release(t.Context(), m.Serial); err != nil {
			t.Error(err)
		}
	}
	if kept := attach(t, table).Kept(); len(kept) != 0 {
		t.Errorf("kept after release: %+v", kept)
	}
	m.Close()
	kept[0].Close()
	if n := devices(t); n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
}

func TestMountErrors(t *testing.T) {
	c := attach(t, newTestTable(t))
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]struct {
		id, target string
		meta       int
		want       error
	}{
		"no id":     {"", target(t), 0, nil},
		"relative":  {"m", "x", 0, nil},
		"absent":    {"m", filepath.Join(target(t), "absent"), 0, unix.ENOENT},
		"file":      {"m", file, 0, unix.ENOTDIR},
		"long meta": {"m", target(t), maxMeta + 1, nil},
	} {
		_, err := c.Mount(t.Context(), m.id, m.target, make([]byte, m.meta))
		if err == nil || m.want != nil && !errors.Is(err, m.want) {
			t.Errorf("%s: %v, want %v", name, err, m.want)
		}
	}
	if n := devices(t); n != 0 {
		t.Errorf("%d descriptors are left", n)
	}
	if err := c.Ready(t.Context(), 77); err == nil {
		t.Error("a mount that does not exist is ready")
	}
	m, err := c.Mount(t.Context(), "m", target(t), make([]byte, maxMeta))
	if err != nil {
		t.Fatalf("longest meta: %v", err)
	}
	m.Close()
}

// TestReadyTimesOut: a mount that nobody serves is not ready, and nobody hangs.
func TestReadyTimesOut(t *testing.T) {
	c := attach(t, newTestTable(t))
	m, err := c.Mount(t.Context(), "m", target(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Ready(ctx, m.Serial); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ready: %v", err)
	}
	if err := c.Unmount(t.Context(), m.Serial); err != nil {
		t.Error(err)
	}
}

// TestAbandonedMount: a mount whose caller has gone is removed.
func TestAbandonedMount(t *testing.T) {
	c := attach(t, newTestTable(t))
	dir := target(t)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // the request is sent nevertheless
		m, err := c.Mount(ctx, "m", dir, nil)
		if err == nil { // the answer was faster
			m.Close()
			c.abandon(m.Serial)
		}
		for end := time.Now().Add(5 * time.Second); mounted(t, dir); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("still mounted")
			}
		}
	}
}

// TestForeignMount: what somebody else has put on the target stays.
func TestForeignMount(t *testing.T) {
	c := attach(t, newTestTable(t))
	dir := target(t)
	m, err := c.Mount(t.Context(), "m", dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Unmount(t.Context(), m.Serial); err != nil {
		t.Error(err)
	}
	if !mounted(t, dir) {
		t.Error("the foreign mount is gone")
	}
}

// TestDeadMountsAreReplaced: what a killed keeper left is no obstacle, a living
// file system is one.
func TestDeadMountsAreReplaced(t *testing.T) {
	dir := target(t)
	for range 3 {
		m := &Mount{Target: dir}
		if err := m.open(); err != nil {
			t.Fatal(err)
		}
		m.Close() // all descriptors: the connection is dead
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), " "+dir+" "); n != 1 {
		t.Errorf("%d mounts on each other", n)
	}
}

// TestKeeperGone: calls end when the keeper does.
func TestKeeperGone(t *testing.T) {
	ours, theirs, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Setenv(envFD, strconv.Itoa(fd))
	if err := ours.send(&packet{Op: opHello}); err != nil {
		t.Fatal(err)
	}
	c, err := Connect()
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() { end <- c.Unmount(t.Context(), 1) }()
	buf := make([]byte, maxPacket)
	if _, _, err := ours.receive(buf); err != nil {
		t.Fatal(err)
	}
	ours.c.Close()
	if err := <-end; !errors.Is(err, ErrGone) {
		t.Errorf("call: %v", err)
	}
	<-c.Done()
	if err := c.Unmount(t.Context(), 1); !errors.Is(err, ErrGone) {
		t.Errorf("later call: %v", err)
	}
	c.Close()
	if _, err := Connect(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("second Connect: %v", err)
	}
}

// TestBadPackets: the other side's bytes are not trusted to be packets, and
// files that came along are closed.
func TestBadPackets(t *testing.T) {
	for name, raw := range map[string]string{
		"not json": "{", "wrong type": `{"Op":7}`, "list": `[]`, "too long": fmt.Sprintf("%q", strings.Repeat("x", maxPacket)),
	} {
		ours, theirs, err := newPair()
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open("/dev/fuse")
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Sendmsg(int(theirs.Fd()), []byte(raw), unix.UnixRights(int(f.Fd())), nil, 0)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if p, _, err := ours.receive(make([]byte, maxPacket)); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
		if n := devices(t); n != 0 {
			t.Errorf("%s: %d descriptors are left", name, n)
		}
		theirs.Close()
		ours.c.Close()
	}
}
