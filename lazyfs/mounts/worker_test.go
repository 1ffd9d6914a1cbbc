// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/lazyfs/keeper"
)

func init() {
	roles["keeper"] = keeperMain
	roles["worker"] = workerMain
}

// envState names a directory: store, control socket, pid file.
const envState = "LIGHTER_TEST_STATE"

// keeperMain is the first process: it listens, and keeps for its workers.
func keeperMain() error {
	l, err := net.Listen("unix", filepath.Join(os.Getenv(envState), "control"))
	if err != nil {
		return err
	}
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		return err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// The keeper has the cache's lock: a worker that cannot end would keep it
	// from its successor.
	lock, err := os.OpenFile(filepath.Join(os.Getenv(envState), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	lockFD, err := unix.FcntlInt(lock.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return keeper.Run(context.Background(), keeper.RunOptions{
		Command:   []string{"/proc/self/exe"},
		Env:       []string{envRole + "=worker"},
		Standby:   os.Getenv("LIGHTER_TEST_STANDBY") != "",
		Listeners: []*os.File{os.NewFile(uintptr(fd), "control"), os.NewFile(uintptr(lockFD), "lock")},
	})
}

// workerMain serves, and does what comes over the control socket.
func workerMain() error {
	state := os.Getenv(envState)
	k, err := keeper.Connect()
	if err != nil {
		return err
	}
	if err := writePid(filepath.Join(state, "pid")); err != nil {
		return err
	}
	m, _, err := newManager(filepath.Join(state, "store"), k, k.Listener("lock"))
	if err != nil {
		return err
	}
	if err := writePid(filepath.Join(state, "serving")); err != nil {
		return err
	}
	l, err := net.FileListener(k.Listener("control"))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	go func() {
		select {
		case <-k.Done():
			os.Exit(3)
		case <-ctx.Done():
			l.Close()
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return m.Close(context.Background())
		}
		go func() {
			defer c.Close()
			var r request
			if json.NewDecoder(c).Decode(&r) == nil {
				if r.Op == "mount and die" {
					meta, _ := json.Marshal(r.Spec)
					k.Mount(ctx, r.ID, r.Target, meta)
					unix.Kill(os.Getpid(), unix.SIGKILL)
				}
				json.NewEncoder(c).Encode(obey(ctx, m, r))
			}
		}()
	}
}

func writePid(path string) error {
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// kept is a keeper with its worker.
type kept struct {
	state string
	proc  *os.Process
	wait  func() error
}

// startKeeper starts one. After limit, all its processes are killed.
func startKeeper(t *testing.T, limit time.Duration, env ...string) *kept {
	t.Helper()
	state, err := os.MkdirTemp("", "lighter-state-") // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	cmd := role(t, "keeper", append(env, envState+"="+state)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k := &kept{state: state, proc: cmd.Process, wait: cmd.Wait}
	watchdog(t, limit, cmd.Process) // the worker dies with it
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	})
	return k
}

// worker returns the process id of the present worker.
func (k *kept) worker(t *testing.T) int { return k.pid(t, "pid") }

// serving returns the process id of the last worker that served.
func (k *kept) serving(t *testing.T) int { return k.pid(t, "serving") }

func (k *kept) pid(t *testing.T, name string) int {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(k.state, name))
		if err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		if time.Now().After(end) {
			t.Fatal("no worker")
		}
	}
}

// call sends one request and returns the answer, or the error of a worker that
// died meanwhile.
func (k *kept) call(r request) (response, error) {
	var a response
	var c net.Conn
	var err error
	for range 100 { // the keeper may not listen yet
		if c, err = net.Dial("unix", filepath.Join(k.state, "control")); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return a, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if err := json.NewEncoder(c).Encode(r); err != nil {
		return a, err
	}
	return a, json.NewDecoder(c).Decode(&a)
}

func (k *kept) mount(t *testing.T, r request) {
	t.Helper()
	r.Op = "mount"
	a, err := k.call(r)
	if err != nil || a.Error != "" {
		t.Fatal("mount:", err, a.Error)
	}
}
