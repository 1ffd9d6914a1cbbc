// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// BuildKit is a throw-away buildkitd of ours with its own state.
type BuildKit struct {
	Root string // its state
	Addr string // of its socket, unix://
	Log  string

	env   *Env
	bin   string   // another daemon than ours
	vars  []string // added to its environment
	flags []string
	cmd   *exec.Cmd
	done  chan error
}

// StartBuildKit starts our buildkitd with the OCI worker, or as flags say. It
// is stopped when t ends.
func (e *Env) StartBuildKit(t TB, flags ...string) *BuildKit {
	t.Helper()
	b := e.newBuildKit(t, flags...)
	t.Cleanup(func() { b.Stop(t) })
	b.Start(t)
	return b
}

func (e *Env) newBuildKit(t TB, flags ...string) *BuildKit {
	t.Helper()
	return &BuildKit{
		env: e, Root: e.Path(t, "buildkit", "root"), Addr: "unix://" + filepath.Join(e.Run, "bk.sock"), Log: e.Path(t, "buildkit", "log"),
		flags: append([]string{"--containerd-worker=false", "--oci-worker-net=host"}, flags...),
	}
}

// Start starts the daemon on the state that it has.
func (b *BuildKit) Start(t TB) {
	t.Helper()
	log, err := os.OpenFile(b.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("buildkitd: %v", err)
	}
	defer log.Close()
	conf := b.env.Path(t, "buildkit", "buildkitd.toml")
	if err := os.WriteFile(conf, nil, 0o644); err != nil {
		t.Fatalf("buildkitd: %v", err)
	}
	args := append([]string{"--config", conf, "--root", b.Root, "--addr", b.Addr, "--otel-socket-path", filepath.Join(b.env.Run, "otel.sock")}, b.flags...)
	bin := b.bin
	if bin == "" {
		bin = b.env.Binary(t, "buildkitd")
	}
	cmd := exec.Command(bin, args...)
	// BuildKit's own temporary mounts outlive it when it is killed: they are to be swept.
	cmd.Env = append(append(os.Environ(), "TMPDIR="+filepath.Dir(b.Root)), b.vars...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("buildkitd: %v", err)
	}
	b.cmd, b.done = cmd, make(chan error, 1)
	go func() { b.done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := waitFor(ctx, "buildkitd", func() bool {
		return exec.Command(b.env.Buildctl(t), "--addr", b.Addr, "debug", "workers").Run() == nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, b.tail())
	}
}

// Stop ends the daemon orderly.
func (b *BuildKit) Stop(t TB) {
	t.Helper()
	b.end(t, syscall.SIGTERM)
}

// Kill ends the daemon as a crash would.
func (b *BuildKit) Kill(t TB) {
	t.Helper()
	b.end(t, syscall.SIGKILL)
}

func (b *BuildKit) end(t TB, sig syscall.Signal) {
	t.Helper()
	if b.cmd == nil {
		return
	}
	b.cmd.Process.Signal(sig)
	select {
	case <-b.done:
	case <-time.After(30 * time.Second):
		t.Logf("buildkitd does not end by itself")
		b.cmd.Process.Kill()
		<-b.done
	}
	b.cmd = nil
}

// Ctl runs buildctl and returns what it wrote, progress included.
func (b *BuildKit) Ctl(t TB, args ...string) string {
	t.Helper()
	out, err := b.TryCtl(t, args...)
	if err != nil {
		t.Fatalf("buildctl %s: %v\n%s\n%s", strings.Join(args, " "), err, out, b.tail())
	}
	return out
}

// TryCtl is Ctl for commands that may fail.
func (b *BuildKit) TryCtl(t TB, args ...string) (string, error) {
	t.Helper()
	stdout, stderr, err := tryCommand(5*time.Minute, b.Command(t, args...))
	return stdout + stderr, err
}

// Command is a buildctl command that talks to this daemon.
func (b *BuildKit) Command(t TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(b.env.Buildctl(t), args...)
	cmd.Env = append(os.Environ(), "BUILDKIT_HOST="+b.Addr)
	return cmd
}

// Build builds the Dockerfile in dir and sends it to output, as buildctl's flag has it.
func (b *BuildKit) Build(t TB, dir, output string, more ...string) string {
	t.Helper()
	return b.Ctl(t, buildArgs(dir, output, more)...)
}

func buildArgs(dir, output string, more []string) []string {
	return append([]string{"build", "--progress=plain", "--frontend=dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir}, append(outputArgs(output), more...)...)
}

// outputArgs is empty for a build that writes nothing.
func outputArgs(output string) []string {
	if output == "" {
		return nil
	}
	return []string{"--output", output}
}

// Buildctl builds BuildKit's client in the version that our daemon is made of.
func (e *Env) Buildctl(t TB) string { return e.Binary(t, "github.com/moby/buildkit/cmd/buildctl") }

func (b *BuildKit) tail() string {
	raw, err := os.ReadFile(b.Log)
	if err != nil {
		return err.Error()
	}
	if len(raw) > 4000 {
		raw = raw[len(raw)-4000:]
	}
	return string(raw)
}
