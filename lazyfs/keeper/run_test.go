// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the keeper and the worker.
const (
	envRole = "LIGHTER_TEST_ROLE"
	envDir  = "LIGHTER_TEST_DIR" // where both write what they do, and find what to do
)

func TestMain(m *testing.M) {
	dir := os.Getenv(envDir)
	switch os.Getenv(envRole) {
	case "":
		os.Exit(m.Run())
	case "keeper":
		err := Run(context.Background(), RunOptions{
			Command: []string{"/proc/self/exe"}, Env: []string{envRole + "=worker"},
			Standby: exists(dir, "standby"), StopTimeout: time.Second,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "worker":
		testWorker(dir)
	}
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// note appends a line to a file that the test reads.
func note(dir, name string) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintln(f, os.Getpid())
		f.Close()
	}
}

// testWorker does what files in dir tell it.
func testWorker(dir string) {
	note(dir, "started")
	if exists(dir, "crash") {
		os.Exit(9)
	}
	k, err := Connect()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if exists(dir, "deaf") {
		signal.Ignore(unix.SIGTERM)
	}
	if exists(dir, "orphan") { // sh ends at once, its child goes to the first process
		exec.Command("/bin/sh", "-c", "sleep 0.1 &").Run()
	}
	note(dir, "connected")
	if exists(dir, "finish") {
		os.Exit(0)
	}
	<-k.Done()
	os.Exit(3)
}

// running is a keeper process.
type running struct {
	t    *testing.T
	dir  string
	proc *os.Process
	end  chan error
}

func start(t *testing.T, attr *syscall.SysProcAttr, files ...string) *running {
	t.Helper()
	r := &running{t: t, dir: t.TempDir(), end: make(chan error, 1)}
	for _, f := range files {
		r.touch(f)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envRole+"=keeper", envDir+"="+r.dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.proc = cmd.Process
	go func() { r.end <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		select {
		case <-r.end:
		case <-time.After(10 * time.Second):
			t.Error("keeper does not end")
		}
	})
	return r
}

func (r *running) touch(name string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), nil, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// pids returns those that wrote the note.
func (r *running) pids(name string) []int {
	b, _ := os.ReadFile(filepath.Join(r.dir, name))
	var pids []int
	for _, l := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(l); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// await waits for n notes and returns the last.
func (r *running) await(name string, n int) int {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if p := r.pids(name); len(p) >= n {
			return p[n-1]
		}
		if time.Now().After(end) {
			r.t.Fatalf("%d of %d workers have %s", len(r.pids(name)), n, name)
		}
	}
}

// standby waits until n workers have been started, and returns the one that has
// not been the worker yet.
func (r *running) standby(n int) int {
	r.t.Helper()
	r.await("started", n)
	connected := r.pids("connected")
	for _, pid := range r.pids("started") {
		if !slices.Contains(connected, pid) {
			return pid
		}
	}
	r.t.Fatal("no standby")
	return 0
}

// ended waits for the keeper's end.
func (r *running) ended() error {
	r.t.Helper()
	select {
	case err := <-r.end:
		r.end <- err
		return err
	case <-time.After(20 * time.Second):
		r.t.Fatal("keeper does not end")
		return nil
	}
}

func TestRestartAtOnce(t *testing.T) {
	r := start(t, nil)
	for i := range 20 {
		if err := unix.Kill(r.await("connected", i+1), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	r.await("connected", 21)
}

func TestBackoffOfCrashes(t *testing.T) {
	r := start(t, nil, "crash")
	r.await("started", 4)
	time.Sleep(time.Second)
	// 0, 50, 100, 200, 400, 800 ms …
	if n := len(r.pids("started")); n > 8 {
		t.Errorf("%d workers in about a second", n)
	}
	if err := os.Remove(filepath.Join(r.dir, "crash")); err != nil {
		t.Fatal(err)
	}
	r.await("connected", 1)
}

func TestBackoff(t *testing.T) {
	var b backoff
	for i, want := range []time.Duration{0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		if got := b.next(false, time.Second); got != want*time.Millisecond {
			t.Errorf("failure %d: %v, want %v", i+1, got, want*time.Millisecond)
		}
	}
	if got := b.next(true, 0); got != 0 || b.failures != 0 {
		t.Errorf("killed: %v, %d failures", got, b.failures)
	}
	b.failures = 5
	if got := b.next(false, time.Minute); got != 0 || b.failures != 1 {
		t.Errorf("after a long life: %v, %d failures", got, b.failures)
	}
	b.failures = 1 << 40
	if got := b.next(false, 0); got != maxDelay {
		t.Errorf("after many failures: %v", got)
	}
}

func TestStandbyTakesOver(t *testing.T) {
	r := start(t, nil, "standby")
	for i := range 5 {
		worker := r.await("connected", i+1)
		standby := r.standby(i + 2)
		if err := unix.Kill(worker, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if next := r.await("connected", i+2); next != standby {
			t.Errorf("worker %d takes over, not the standby %d", next, standby)
		}
	}
	// A dead standby is no obstacle.
	worker := r.await("connected", 6)
	if err := unix.Kill(r.standby(7), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(worker, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	last := r.await("connected", 7)
	if err := r.proc.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	for _, pid := range append(r.pids("started"), last) {
		if unix.Kill(pid, 0) == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}

func TestKeeperEndsWithWorker(t *testing.T) {
	if err := start(t, nil, "finish").ended(); err != nil {
		t.Error(err)
	}
}

func TestStopKillsDeafWorker(t *testing.T) {
	r := start(t, nil, "deaf")
	worker := r.await("connected", 1)
	if err := r.proc.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
	if unix.Kill(worker, 0) == nil {
		t.Error("the worker lives")
	}
}

func TestWorkerDiesWithKeeper(t *testing.T) {
	r := start(t, nil)
	worker := r.await("connected", 1)
	r.proc.Kill()
	r.ended()
	for end := time.Now().Add(5 * time.Second); unix.Kill(worker, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if state, _ := task(worker, worker); state == 'Z' { // the machine's first process may be slow to reap
			break
		}
		if time.Now().After(end) {
			t.Fatal("the worker lives")
		}
	}
}

// TestOrphans: as the first process of a container the keeper reaps what others
// leave, and still learns of its own children's ends.
func TestOrphans(t *testing.T) {
	r := start(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, "orphan")
	r.await("connected", 1)
	zombies := func() (n int) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", r.proc.Pid, r.proc.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(c)
			if err != nil {
				t.Fatal(err)
			}
			if state, _ := task(pid, pid); state == 'Z' {
				n++
			}
		}
		return n
	}
	time.Sleep(300 * time.Millisecond)
	for end := time.Now().Add(5 * time.Second); zombies() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d zombies", zombies())
		}
	}
	if err := r.proc.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.ended(); err != nil {
		t.Error(err)
	}
}
