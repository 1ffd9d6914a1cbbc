// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// janitorEnv holds the directories to sweep, separated by colons, in a process that is a janitor.
const janitorEnv = "LIGHTER_TEST_JANITOR"

// Janitor is to be called first in the main function (or TestMain) of every
// program that uses New. In the process that New started as janitor it waits
// for the other to go, sweeps, and does not return.
func Janitor() {
	dirs := os.Getenv(janitorEnv)
	if dirs == "" {
		return
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	io.Copy(io.Discard, os.Stdin) // ends when the test process does
	if err := sweep(strings.Split(dirs, ":")...); err != nil {
		fmt.Fprintln(os.Stderr, "janitor:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func startJanitor(dirs ...string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), janitorEnv+"="+strings.Join(dirs, ":"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() { in.Close(); cmd.Wait() }, nil
}

// sweep ends every process that was started with one of the directories in its
// arguments, and their descendants, unmounts all that is mounted below them,
// and removes them with the control groups of their name.
func sweep(dirs ...string) error {
	var errs []error
	for range 5 {
		pids := processesOf(dirs)
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(pids) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	removeSockets(dirs)
	for _, dir := range dirs {
		if err := unmountBelow(dir); err != nil {
			errs = append(errs, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, err)
		}
		removeCgroups(filepath.Base(dir))
	}
	return errors.Join(errs...)
}

// removeSockets removes what killed daemons leave in places that Docker and
// containerd do not let us choose: directories of plugin sockets, by the ids of
// our plugins, and the sockets of shims, where nobody listens any more.
func removeSockets(dirs []string) {
	for _, dir := range dirs {
		plugins, _ := filepath.Glob(filepath.Join(dir, "*", "root", "plugins", strings.Repeat("?", 64)))
		for _, p := range plugins {
			os.RemoveAll(filepath.Join("/run/docker/plugins", filepath.Base(p)))
		}
	}
	shims, _ := filepath.Glob("/run/containerd/s/*")
	for _, s := range shims {
		if st, err := os.Lstat(s); err != nil || time.Since(st.ModTime()) < 10*time.Second {
			continue // maybe just being made, by another test's daemon
		}
		c, err := net.Dial("unix", s)
		if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(s)
		} else if err == nil {
			c.Close()
		}
	}
	for _, dir := range []string{"/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"} {
		os.Remove(dir) // fails if it holds anything
	}
}

// processesOf lists the processes that name one of the directories in their
// arguments, and all descendants of those. The calling process is never among them.
func processesOf(dirs []string) []int {
	parent := map[int]int{}
	mine := map[int]bool{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		parent[pid] = parentOf(pid)
		args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		for _, dir := range dirs {
			if bytes.Contains(args, []byte(dir+"/")) {
				mine[pid] = true
			}
		}
	}
	var out []int
	for pid := range parent {
		for p := pid; p > 1; p = parent[p] {
			if mine[p] {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}

// parentOf returns 0 for a process that is gone.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 2 || f[0] == "Z" {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}

func unmountBelow(dir string) error {
	for range 8 {
		infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return fmt.Errorf("mounts below %s: %w", dir, err)
		}
		if len(infos) == 0 {
			return nil
		}
		sort.Slice(infos, func(i, j int) bool { return len(infos[i].Mountpoint) > len(infos[j].Mountpoint) })
		for _, m := range infos {
			unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	return fmt.Errorf("mounts below %s do not go away", dir)
}

// Mounts lists the mount points below the Env's directories, with their types.
func (e *Env) Mounts(t TB) []string {
	t.Helper()
	var out []string
	for _, dir := range []string{e.Dir, e.Run} {
		infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			t.Fatalf("mounts: %v", err)
		}
		for _, m := range infos {
			out = append(out, m.FSType+" "+m.Mountpoint)
		}
	}
	return out
}

func removeCgroups(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		tops, _ := filepath.Glob(pattern)
		for _, top := range tops {
			var all []string
			filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, p)
				}
				return nil
			})
			for i := len(all) - 1; i >= 0; i-- {
				os.Remove(all[i])
			}
		}
	}
}
