// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// worker is a started process, and the keeper's end of the pair to it.
type worker struct {
	cmd   *exec.Cmd
	link  *link
	ended chan struct{} // closed when it has been waited for
	death death         // valid then
}

// death is the end of a worker.
type death struct {
	status string // empty for exit status 0
	killed bool   // by SIGKILL, so from outside
}

// startWorker must be called on the thread that ends last: the parent-death
// signal is tied to it.
func startWorker(o RunOptions) (*worker, error) {
	l, theirs, err := newPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close() // the worker's death must be the end of the pair
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Env = append(append(os.Environ(), o.Env...), envFD+"="+strconv.Itoa(3))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := startOwn(cmd); err != nil {
		l.c.Close()
		return nil, err
	}
	w := &worker{cmd: cmd, link: l, ended: make(chan struct{})}
	go func() {
		waitOwn(cmd) // what counts is in the state
		w.death = deathOf(cmd.ProcessState)
		close(w.ended)
	}()
	return w, nil
}

func (w *worker) dead() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

func newPair() (ours *link, theirs *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs = os.NewFile(uintptr(pair[1]), "worker")
	ours, err = newLink(os.NewFile(uintptr(pair[0]), "keeper"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

func deathOf(state *os.ProcessState) death {
	if state == nil {
		return death{status: "lost"}
	}
	if state.Success() {
		return death{}
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	return death{status: state.String(), killed: ok && ws.Signaled() && ws.Signal() == unix.SIGKILL}
}
