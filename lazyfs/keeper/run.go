// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// RunOptions say what is kept, and for whom.
type RunOptions struct {
	// Command is the worker's program and arguments.
	Command []string
	// Env is added to the keeper's own environment for the worker.
	Env []string
	// Listeners are handed to each worker; it finds them by their names.
	Listeners []*os.File
	// StopTimeout is how long a worker may take to end after SIGTERM before
	// it is killed. 0: 10 s.
	StopTimeout time.Duration
	// Standby keeps a second process started, which waits in Connect until
	// the worker dies: the pause is shorter by the time a start takes.
	Standby bool
	// Logger receives the deaths of workers. Nil: slog's default.
	Logger *slog.Logger
}

const (
	defaultStopTimeout = 10 * time.Second
	// halfDeadInterval is how often the keeper looks for a worker that has
	// been killed and cannot end.
	halfDeadInterval = 200 * time.Millisecond
	// standbyDelay lets a new worker take over before its standby is started.
	standbyDelay = 50 * time.Millisecond
)

// Run starts a worker, keeps for it, and starts another whenever one dies,
// until SIGTERM or SIGINT comes or ctx ends. Then the worker gets SIGTERM, and
// when it has ended, what is still mounted is unmounted. A worker that ends by
// itself with status 0 ends the keeper as well.
func Run(ctx context.Context, o RunOptions) error {
	if len(o.Command) == 0 {
		return errors.New("keeper: no command")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = defaultStopTimeout
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	if os.Getpid() == 1 {
		go reapOrphans(ctx)
	}
	// The worker's parent-death signal is tied to the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	k := &keeper{o: o, table: newTable(&prober{})}
	err := k.run(ctx)
	return errors.Join(err, k.table.close())
}

// keeper is one call of Run.
type keeper struct {
	o       RunOptions
	table   *table
	standby *worker // started, and waiting to be the worker; may be nil or dead
	backoff backoff
}

// run has one worker after the other until it is told to stop.
func (k *keeper) run(ctx context.Context) error {
	defer k.dismiss()
	for {
		started := time.Now()
		d, err := k.work(ctx)
		life := time.Since(started)
		if err == nil && (ctx.Err() != nil || d.status == "") {
			return nil
		}
		if err != nil {
			k.o.Logger.Error("worker does not start", "error", err)
		} else {
			k.o.Logger.Warn("worker died", "status", d.status, "after", life)
		}
		select {
		case <-time.After(k.backoff.next(d.killed, life)):
		case <-ctx.Done():
			return nil
		}
	}
}

// work has one worker from start to end.
func (k *keeper) work(ctx context.Context) (death, error) {
	w := k.standby
	k.standby = nil
	if w == nil || w.dead() {
		var err error
		if w, err = startWorker(k.o); err != nil {
			return death{}, err
		}
	}
	defer w.link.c.Close()
	served := make(chan struct{})
	s := &session{table: k.table, link: w.link, crashes: k.backoff.failures}
	go func() {
		defer close(served)
		// Not ctx: a worker that is stopping may still ask for unmounts.
		err := s.serve(context.WithoutCancel(ctx), k.o.Listeners)
		if err != nil {
			k.o.Logger.Warn("worker does not listen", "error", err)
			w.link.c.Close() // Connect must not wait for the rest
		}
	}()
	d := k.await(ctx, w)
	// Nothing that the dead worker asked for may go on beside its successor.
	w.link.c.Close()
	<-served
	return d, nil
}

// await waits for the worker's end, which it asks for when ctx ends.
func (k *keeper) await(ctx context.Context, w *worker) death {
	look := time.NewTicker(halfDeadInterval)
	defer look.Stop()
	var standby <-chan time.Time
	if k.o.Standby {
		standby = time.After(standbyDelay)
	}
	done := ctx.Done()
	var stop <-chan time.Time
	for {
		select {
		case <-w.ended:
			return w.death
		case <-look.C:
			if halfDead(w.cmd.Process.Pid) {
				return death{status: "killed, and waits for its own mount", killed: true}
			}
		case <-standby:
			var err error
			if k.standby, err = startWorker(k.o); err != nil {
				k.o.Logger.Warn("no standby", "error", err)
			}
		case <-done:
			done = nil
			w.cmd.Process.Signal(unix.SIGTERM)
			stop = time.After(k.o.StopTimeout)
		case <-stop:
			k.o.Logger.Warn("worker does not stop, killing it", "after", k.o.StopTimeout)
			w.cmd.Process.Kill()
		}
	}
}

// dismiss ends the standby, which has nothing to lose.
func (k *keeper) dismiss() {
	if k.standby != nil {
		k.standby.cmd.Process.Kill()
		<-k.standby.ended
		k.standby.link.c.Close()
	}
}

// reapOrphans collects children that the first process of a container
// inherits. The keeper's own are left to those who wait for them.
func reapOrphans(ctx context.Context) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	defer signal.Stop(c)
	for {
		select {
		case <-c:
			reapOthers()
		case <-ctx.Done():
			return
		}
	}
}
