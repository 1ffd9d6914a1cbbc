// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lighter/graphdriver"
)

// driverArg is what makes a process the driver.
const driverArg = "driver"

// driverStop is what the driver has of stopTimeout; the rest is for unmounting.
const driverStop = stopTimeout - 2*time.Second

// driverDelay is waited before a driver that died is replaced.
const driverDelay = 100 * time.Millisecond

// runDriver answers Docker's calls until SIGTERM. It holds no FUSE descriptor:
// its system calls wait for answers of the worker, and if it served itself, a
// kill of the whole plugin could leave it waiting for them for ever.
func runDriver(log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	f := os.NewFile(3, pluginSocket)
	docker, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("docker's socket: %w", err)
	}
	f.Close()
	d, err := graphdriver.New(graphdriver.Options{Root: dataDir, Mounter: dialMounter(mounterSocket), DockerImageDir: dockerImageDir, Logger: log})
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	r := &replumb{file: dialsFile, user: daemonFile, dir: dataDir, need: failed, log: log, fresh: map[net.Conn]bool{}}
	if err := r.begin(); err != nil {
		return fmt.Errorf("counting daemons: %w", err)
	}
	srv := &http.Server{Handler: r.handler(graphdriver.Handler(d)), ConnState: r.state}
	go func() { failed <- srv.Serve(docker) }()
	log.Info("serving Docker", "version", version)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	// Calls under way may end, within the time that Docker leaves us.
	ctx, cancel := context.WithTimeout(context.Background(), driverStop-time.Second)
	defer cancel()
	srv.Shutdown(ctx)
	return err
}

// keepDriver has one driver process after the other until ctx ends, or one ends
// by itself without an error. socket is Docker's. The driver dies with this
// process.
func keepDriver(ctx context.Context, socket *os.File, log *slog.Logger) error {
	// The parent-death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("own binary: %w", err)
	}
	for {
		cmd := exec.CommandContext(ctx, self, driverArg)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.ExtraFiles = []*os.File{socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
		cmd.WaitDelay = driverStop
		err := cmd.Run()
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			return fmt.Errorf("driver: %w", err)
		}
		log.Warn("driver died", "error", err)
		select {
		case <-time.After(driverDelay):
		case <-ctx.Done():
			return nil
		}
	}
}
