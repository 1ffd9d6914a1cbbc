// SPDX-License-Identifier: Apache-2.0

// Command plugin is lighter as a managed Docker plugin: a graph driver over
// Docker's own overlay2 that mounts accelerated images lazily.
//
// It runs as three processes of the same binary. The first one, the keeper, opens
// Docker's socket and holds the FUSE descriptors; it starts the second one, the
// worker, which serves images and is replaced when it dies. The worker starts
// the third, the driver, which answers Docker and asks the worker for mounts.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"lighter/lazyfs/keeper"
)

// version is set by the linker.
var version = "unknown"

// workerArg is what makes a process the worker.
const workerArg = "worker"

// stopTimeout is less than the 10 s that Docker gives a plugin between SIGTERM and SIGKILL.
const stopTimeout = 8 * time.Second

func main() {
	if reexec.Init() { // overlay2 mounts in children of its own
		return
	}
	s, err := readSettings(os.Getenv)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: s.logLevel}))
	slog.SetDefault(log)
	if err == nil {
		switch {
		case len(os.Args) == 2 && os.Args[1] == workerArg:
			err = runWorker(s, log.With("part", "worker"))
		case len(os.Args) == 2 && os.Args[1] == driverArg:
			err = runDriver(log.With("part", "driver"))
		default:
			err = runKeeper(log.With("part", "keeper"))
		}
	}
	if err != nil {
		log.Error("lighter ends", "error", err)
		os.Exit(1)
	}
}

// runKeeper listens where Docker expects the plugin, and keeps a worker running until it is told to stop.
func runKeeper(log *slog.Logger) error {
	if err := dropCapabilities(); err != nil {
		log.Warn("running with more capabilities than needed", "error", err)
	}
	l, err := listen(pluginSocket)
	if err != nil {
		return err
	}
	defer l.Close()
	files := []*os.File{l}
	if lock, err := lockCache(); err == nil {
		defer lock.Close()
		files = append(files, lock)
	} else {
		log.Warn("the worker will lock the cache itself", "error", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own binary: %w", err)
	}
	log.Info("lighter starts", "version", version)
	return keeper.Run(context.Background(), keeper.RunOptions{
		Command: []string{self, workerArg}, Listeners: files, StopTimeout: stopTimeout, Standby: true, Logger: log,
	})
}

// cacheLock is the name under which the worker finds the lock of its cache.
const cacheLock = cacheDir + "/lock"

// lockCache locks the cache for all workers: one that was killed may hold its
// files for a while after the next has started.
func lockCache() (*os.File, error) {
	if err := os.MkdirAll(cacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	f, err := os.OpenFile(cacheLock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", cacheLock, err)
	}
	return f, nil
}

// listen makes a unix socket, replacing what a killed process left, and returns it as a file of the same name.
func listen(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	f, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// File names its copy after the network; the keeper's client looks for the path.
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}
