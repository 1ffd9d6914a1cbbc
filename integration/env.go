// SPDX-License-Identifier: Apache-2.0

// Package integration runs lighter the way its users do: with a real dockerd,
// a real registry and the managed plugin, all thrown away afterwards.
//
// Everything that an Env starts lies under two fresh directories. Every process
// is stopped by its own id, every mount is found in mountinfo below those
// directories. A janitor, the same program started a second time, does the
// sweeping if the test process dies without doing it.
package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// TB is what the helpers need of a test; *testing.T and *testing.B have it.
// Fatalf does not return.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Env is one throw-away set of servers. It is not safe for concurrent use
// while servers are being started; what it has started is.
type Env struct {
	Dir string // on disk: data roots, logs, build results
	Run string // exec roots; short, for Docker puts 86 bytes of socket name behind one

	Registry *Registry
	bins     map[string]string
}

// New makes an empty Env whose servers and files are gone when t ends.
func New(t TB) *Env {
	t.Helper()
	dir, err := os.MkdirTemp(tempBase(), "lighter-test-")
	if err != nil {
		t.Fatalf("environment: %v", err)
	}
	run, err := os.MkdirTemp("/run", "lt")
	if err != nil {
		t.Fatalf("environment: %v", err)
	}
	e := &Env{Dir: dir, Run: run, bins: map[string]string{}}
	stop, err := startJanitor(dir, run)
	if err != nil {
		t.Fatalf("environment: janitor: %v", err)
	}
	t.Cleanup(func() {
		if err := sweep(dir, run); err != nil {
			t.Logf("environment: %v", err)
		}
		stop()
	})
	return e
}

// Path names a file of the Env, making its directory.
func (e *Env) Path(t TB, elem ...string) string {
	t.Helper()
	p := filepath.Join(append([]string{e.Dir}, elem...)...)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatalf("environment: %v", err)
	}
	return p
}

// RepoRoot is the directory of the go.mod that holds this package.
func RepoRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("module root: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// CacheDir is where test images and foreign binaries are kept between runs:
// LIGHTER_TEST_CACHE, or lighter-test in the user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("LIGHTER_TEST_CACHE"); dir != "" {
		return dir, os.MkdirAll(dir, 0o755)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cache directory: %w", err)
	}
	dir = filepath.Join(dir, "lighter-test")
	return dir, os.MkdirAll(dir, 0o755)
}

// Binary builds a main package, once per process, and returns its path. One
// whose name has no host is of this module.
func (e *Env) Binary(t TB, pkg string) string {
	t.Helper()
	path, err := built.binary(pkg)
	if err != nil {
		t.Fatalf("build %s: %v", pkg, err)
	}
	return path
}

// built holds the programs that this process has built.
var built binaries

type binaries struct {
	mu    sync.Mutex
	dir   string // swept by a janitor when the process ends
	stop  func() // holds the janitor's pipe open; never called
	paths map[string]string
}

func (b *binaries) binary(pkg string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.paths[pkg]; p != "" {
		return p, nil
	}
	if b.dir == "" {
		dir, err := os.MkdirTemp(tempBase(), "lighter-test-bin-")
		if err != nil {
			return "", err
		}
		stop, err := startJanitor(dir)
		if err != nil {
			return "", err
		}
		b.dir, b.stop, b.paths = dir, stop, map[string]string{}
	}
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	out, target := filepath.Join(b.dir, filepath.Base(pkg)), pkg
	if host, _, _ := strings.Cut(pkg, "/"); !strings.Contains(host, ".") {
		target = "./" + pkg
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", out, target)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if raw, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, raw)
	}
	b.paths[pkg] = out
	return out, nil
}

// tempBase is a directory on a disk: /tmp may be a tmpfs, which is no place for a data root.
func tempBase() string {
	if base := os.Getenv("LIGHTER_TEST_TMP"); base != "" {
		return base
	}
	return "/var/tmp"
}

// Lighter runs the command-line tool and returns its standard output.
func (e *Env) Lighter(t TB, args ...string) string {
	t.Helper()
	return runCommand(t, 10*time.Minute, exec.Command(e.Binary(t, "cmd/lighter"), args...))
}

// runCommand runs cmd, with a limit on its time, and returns what it wrote to
// standard output; any failure ends the test with both outputs.
func runCommand(t TB, limit time.Duration, cmd *exec.Cmd) string {
	t.Helper()
	out, errOut, err := tryCommand(limit, cmd)
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, errOut)
	}
	return out
}

func tryCommand(limit time.Duration, cmd *exec.Cmd) (stdout, stderr string, err error) {
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	timer := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	err = cmd.Wait()
	if !timer.Stop() && err != nil {
		err = fmt.Errorf("killed after %v: %w", limit, err)
	}
	return o.String(), e.String(), err
}

// waitFor polls until ready says yes, and names what it waited for if it never does.
func waitFor(ctx context.Context, what string, ready func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
	return nil
}
