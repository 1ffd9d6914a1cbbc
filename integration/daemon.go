// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DaemonOptions say which dockerd is started, and how. The zero value is the
// one in PATH, on overlay2.
type DaemonOptions struct {
	Name        string // of its directory; "d" if empty; one letter, for the sake of socket names
	Driver      string // storage driver; overlay2 if empty
	Docker27    bool   // dockerd 27.5.1 as built by `make docker27`
	LiveRestore bool
	Flags       []string
}

// Daemon is a throw-away dockerd with its own data root, containerd and socket.
type Daemon struct {
	Root string // data root
	Etc  string // what the plugin takes for /etc/docker
	Sock string
	Log  string // file with all that dockerd wrote

	env  *Env
	o    DaemonOptions
	exec string
	cmd  *exec.Cmd
	done chan error
}

// Docker27 returns the dockerd that `make docker27` builds, and whether it is there.
func Docker27() (string, bool) {
	dir, err := CacheDir()
	if err != nil {
		return "", false
	}
	p := filepath.Join(dir, "dockerd-27.5.1")
	_, err = os.Stat(p)
	return p, err == nil
}

// StartDaemon starts a dockerd that is stopped, orderly, when t ends.
func (e *Env) StartDaemon(t TB, o DaemonOptions) *Daemon {
	t.Helper()
	if o.Name == "" {
		o.Name = "d"
	}
	if o.Driver == "" {
		o.Driver = "overlay2"
	}
	d := &Daemon{env: e, o: o, exec: filepath.Join(e.Run, o.Name), Root: e.Path(t, o.Name, "root")}
	d.Sock = filepath.Join(e.Run, o.Name+".sock")
	d.Log = e.Path(t, o.Name, "log")
	d.Etc = filepath.Dir(e.Path(t, o.Name, "etc", "certs.d"))
	if err := os.WriteFile(e.Path(t, o.Name, "daemon.json"), []byte("{}"), 0o644); err != nil {
		t.Fatalf("dockerd: %v", err)
	}
	t.Cleanup(func() {
		if err := d.stop(syscall.SIGTERM, time.Minute); err != nil {
			t.Logf("dockerd: %v", err)
		}
	})
	d.Start(t)
	return d
}

func (d *Daemon) args() []string {
	a := []string{
		"--config-file", d.env.Dir + "/" + d.o.Name + "/daemon.json",
		"--data-root", d.Root, "--exec-root", d.exec, "--pidfile", d.exec + ".pid",
		"-H", "unix://" + d.Sock, "--group", "root", "--experimental",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		"--insecure-registry", "127.0.0.0/8", "--storage-driver", d.o.Driver,
		"--cgroup-parent", "/" + filepath.Base(d.env.Run), "--max-concurrent-downloads", "3",
	}
	if d.o.LiveRestore {
		a = append(a, "--live-restore")
	}
	return append(a, d.o.Flags...)
}

// Start starts the stopped daemon again, on the same data. As under systemd, a
// daemon that finds its killed predecessor's containerd half dead is started again.
func (d *Daemon) Start(t TB) {
	t.Helper()
	err := d.start(t)
	if err != nil && strings.Contains(d.LogTail(5), "timeout waiting for containerd to start") {
		t.Logf("dockerd is started again: %v", err)
		err = d.start(t)
	}
	if err != nil {
		t.Fatalf("dockerd did not start: %v\n%s", err, d.LogTail(40))
	}
}

func (d *Daemon) start(t TB) error {
	t.Helper()
	bin := "dockerd"
	if d.o.Docker27 {
		p, ok := Docker27()
		if !ok {
			t.Fatalf("dockerd 27.5.1 is not built: make docker27")
		}
		bin = p
	}
	out, err := os.OpenFile(d.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(bin, d.args()...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "DOCKERD_DEPRECATED_GRAPHDRIVER_PLUGINS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- errors.Join(errors.New("it ended"), cmd.Wait()); close(done) }()
	d.cmd, d.done = cmd, done
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	var exit error
	err = waitFor(ctx, "dockerd", func() bool {
		select {
		case exit = <-done:
			return true
		default:
		}
		_, err := d.TryDocker("version")
		return err == nil
	})
	if exit != nil {
		return exit
	}
	return err
}

// Stop stops dockerd as systemd would: SIGTERM, and wait.
func (d *Daemon) Stop(t TB) {
	t.Helper()
	if err := d.stop(syscall.SIGTERM, time.Minute); err != nil {
		t.Fatalf("dockerd: %v\n%s", err, d.LogTail(40))
	}
}

// Kill ends dockerd, and nothing else, with SIGKILL.
func (d *Daemon) Kill(t TB) {
	t.Helper()
	if err := d.stop(syscall.SIGKILL, time.Minute); err != nil {
		t.Fatalf("dockerd: %v", err)
	}
}

// Restart stops dockerd and starts it with another storage driver, "" for the same.
func (d *Daemon) Restart(t TB, driver string) {
	t.Helper()
	d.Stop(t)
	if driver != "" {
		d.o.Driver = driver
	}
	d.Start(t)
}

func (d *Daemon) stop(sig syscall.Signal, limit time.Duration) error {
	if d.cmd == nil {
		return nil
	}
	d.cmd.Process.Signal(sig)
	cmd, done := d.cmd, d.done
	d.cmd = nil
	select {
	case <-done:
		return nil
	case <-time.After(limit):
		cmd.Process.Kill()
		<-done
		return fmt.Errorf("still alive %v after %v", limit, sig)
	}
}

// Command is a docker client command that talks to this daemon.
func (d *Daemon) Command(args ...string) *exec.Cmd {
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.Sock, "DOCKER_CONFIG="+d.env.Dir+"/docker-config",
		"DOCKER_BUILDKIT=0", "DOCKER_CLI_HINTS=false", "DOCKER_API_VERSION=", "DOCKER_CONTEXT=", "DOCKER_TLS_VERIFY=")
	return cmd
}

// Docker runs a docker client command and returns its standard output, without the last newline.
func (d *Daemon) Docker(t TB, args ...string) string {
	t.Helper()
	out, err := d.TryDocker(args...)
	if err != nil {
		t.Fatalf("%v\ndockerd's log ends with:\n%s", err, d.LogTail(20))
	}
	return out
}

// TryDocker is Docker for commands that may fail; the error holds what the client wrote to standard error.
func (d *Daemon) TryDocker(args ...string) (string, error) {
	out, errOut, err := tryCommand(10*time.Minute, d.Command(args...))
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut))
	}
	return strings.TrimSuffix(out, "\n"), err
}

// LogTail returns the last n lines of the daemon's log that are not chatter of its own parts.
func (d *Daemon) LogTail(n int) string {
	b, err := os.ReadFile(d.Log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, "module=grpc") && !strings.Contains(line, "loading plugin") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
