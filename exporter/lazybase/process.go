// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"lighter/lazyfs"
	"lighter/lazyfs/backend"
	"lighter/lazyfs/keeper"
	"lighter/lazyfs/mounts"
)

// First arguments that make a process of the daemon's binary one of the two
// that serve mounts; the second is the directory.
const (
	keeperArg = "lazybase-keeper"
	workerArg = "lazybase-worker"
)

const (
	// readTimeout is the longest that a read may take. The kernel asks twice for
	// what does not come.
	readTimeout = 30 * time.Second
	// workerStop is less than the daemon waits for both processes.
	workerStop = 8 * time.Second
	// lockTimeout is how long a daemon that was killed may leave its worker behind.
	lockTimeout = 30 * time.Second
	lockPause   = 50 * time.Millisecond
)

// Main runs the process that args, those after the program's name, ask for, and
// reports whether they ask for any. The daemon's main function calls it first.
func Main(args []string) bool {
	if len(args) != 2 {
		return false
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("part", args[0])
	var err error
	switch args[0] {
	case keeperArg:
		err = runKeeper(args[1], log)
	case workerArg:
		err = runWorker(args[1], log)
	default:
		return false
	}
	if err != nil {
		log.Error("accelerated images are not served", "error", err)
		os.Exit(1)
	}
	return true
}

// runKeeper keeps a worker running until its standard input, of which the
// daemon has the other end, is closed.
func runKeeper(dir string, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	lock, err := lockCache(ctx, filepath.Join(dir, "cache.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	unix.CloseOnExec(3)
	return keeper.Run(ctx, keeper.RunOptions{
		Command:   []string{self, workerArg, dir},
		Listeners: []*os.File{os.NewFile(3, mountSocket), lock}, StopTimeout: workerStop, Logger: log,
	})
}

// lockCache locks the chunk cache for all workers.
func lockCache(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
	}
}

// runWorker serves mounts until SIGTERM.
func runWorker(dir string, log *slog.Logger) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	k, err := keeper.Connect()
	if err != nil {
		return err
	}
	registry := backend.NewRegistry(backend.RegistryOptions{
		Transport: toDaemon{&http.Transport{DialContext: dialer(dir, dataSocket), MaxIdleConnsPerHost: 16}},
		PlainHTTP: func(string) bool { return false }, Logger: log, // the daemon knows the scheme
	})
	defer registry.Close()
	store, err := lazyfs.NewStore(filepath.Join(dir, "cache"), lazyfs.StoreOptions{
		ReadTimeout: readTimeout, Lock: k.Listener(filepath.Join(dir, "cache.lock")), Logger: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	m, err := mounts.New(mounts.Options{Store: store, Keeper: k, Logger: log, Opener: func(s mounts.Spec) lazyfs.Opener {
		var all []backend.Opener
		for _, name := range s.Repositories {
			all = append(all, registry.Repository(name))
		}
		return backend.Chain(all...)
	}})
	if err != nil {
		return err
	}
	l, err := net.FileListener(k.Listener(mountSocket))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler(m, store), ReadHeaderTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-k.Done():
		err = keeper.ErrGone
	}
	ctx, cancel := context.WithTimeout(context.Background(), workerStop/2)
	defer cancel()
	srv.Shutdown(ctx)
	return errors.Join(err, m.Close(ctx))
}

// handler does what the daemon asks for.
func handler(m *mounts.Manager, store *lazyfs.Store) http.Handler {
	mux := http.NewServeMux()
	handle := func(verb string, do func(context.Context, call) error) {
		mux.HandleFunc("POST /"+verb, func(rw http.ResponseWriter, r *http.Request) {
			var c call
			err := json.NewDecoder(r.Body).Decode(&c)
			if err == nil {
				err = do(r.Context(), c)
			}
			var answer struct{ Error string }
			if err != nil {
				answer.Error = err.Error()
			}
			rw.Header().Set("Content-Type", "application/json")
			json.NewEncoder(rw).Encode(answer)
		})
	}
	handle("mount", func(ctx context.Context, c call) error { return m.Mount(ctx, c.ID, c.Spec, c.Target) })
	handle("unmount", func(ctx context.Context, c call) error { return m.Unmount(ctx, c.ID) })
	handle("prune", func(ctx context.Context, _ call) error {
		_, err := store.Prune(ctx, 0)
		return err
	})
	return mux
}

// toDaemon sends requests for a registry to the daemon's socket.
type toDaemon struct{ http.RoundTripper }

func (t toDaemon) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	out.Host, out.URL.Scheme, out.URL.Host = req.URL.Host, "http", "daemon"
	resp, err := t.RoundTripper.RoundTrip(out)
	if err == nil {
		resp.Request = req
	}
	return resp, err
}
