// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sys/unix"

	"lighter/format/formattest"
)

// command prepares the command as a process of its own.
func command(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), asCommand+"=1")
	return c
}

// watchdog unmounts target after the test, and by force when the test takes too long.
func watchdog(t *testing.T, target string) {
	t.Helper()
	force := func() { unix.Unmount(target, unix.MNT_DETACH) }
	w := time.AfterFunc(time.Minute, force)
	t.Cleanup(func() {
		w.Stop()
		force()
	})
}

// process is a mount in the foreground.
type process struct {
	*exec.Cmd
	errs bytes.Buffer
	done chan error
}

// startMount runs the mount verb and returns when target is a mount.
func startMount(t *testing.T, target string, args ...string) *process {
	t.Helper()
	watchdog(t, target)
	p := &process{Cmd: command(append([]string{"mount"}, args...)...), done: make(chan error, 1)}
	p.Stderr = &p.errs
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.Wait() }()
	t.Cleanup(func() { p.Process.Kill() })
	for deadline := time.Now().Add(20 * time.Second); !isMount(t, target); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-p.done:
			t.Fatalf("mount ended: %v: %s", err, p.errs.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not mounted after 20 s: %s", p.errs.String())
		}
	}
	return p
}

func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the process did not end")
		return nil
	}
}

func isMount(t *testing.T, dir string) bool {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(raw), " "+dir+" ")
}

// background runs the mount verb with --background.
func background(t *testing.T, target string, args ...string) (stderr string, err error) {
	t.Helper()
	watchdog(t, target)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"mount", "--background"}, args...)...)
	c.Env = append(os.Environ(), asCommand+"=1")
	out, err := c.CombinedOutput()
	return string(out), err
}

// sameTree compares a mounted tree with a golden listing.
func sameTree(t *testing.T, dir, listing string) {
	t.Helper()
	want, err := formattest.ReadListing(filepath.Join(formattest.Golden(t), listing))
	if err != nil {
		t.Fatal(err)
	}
	got, err := formattest.ListDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := formattest.Diff(want, got); d != "" {
		t.Errorf("the mounted tree differs:\n%s", d)
	}
}

func unmount(t *testing.T, target string) {
	t.Helper()
	if err := unix.Unmount(target, 0); err != nil {
		t.Errorf("umount: %v", err)
	}
}

func TestMountForeground(t *testing.T) {
	target, cache := t.TempDir(), t.TempDir()
	p := startMount(t, target, "--cache", cache, golden(t, "v6-lz4_block"), target)
	sameTree(t, target, "oci.jsonl")
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	if isMount(t, target) {
		t.Error("still mounted after Ctrl-C")
	}
	p = startMount(t, target, "--cache", cache, golden(t, "v6-ociref"), target)
	sameTree(t, target, "oci.jsonl")
	unmount(t, target)
	if err := p.wait(t); err != nil {
		t.Errorf("after umount: %v: %s", err, p.errs.String())
	}
}

func TestMountBare(t *testing.T) {
	for _, d := range []string{"dir-v6-zstd", "dir-v6-batch"} {
		target := t.TempDir()
		dir := filepath.Join(formattest.Golden(t), d)
		if out, err := background(t, target, "--cache", t.TempDir(), "--bootstrap", dir+"/bootstrap", "--blobs", dir, target); err != nil {
			t.Fatalf("%s: %v: %s", d, err, out)
		}
		sameTree(t, target, "dir.jsonl")
		unmount(t, target)
	}
}

// TestMountRegistry mounts from a registry, and then without it.
func TestMountRegistry(t *testing.T) {
	var gets atomic.Int32
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			gets.Add(1)
		}
		h.ServeHTTP(w, r)
	}))
	defer s.Close()
	name := strings.TrimPrefix(s.URL, "http://") + "/app:lazy"
	must(t, "convert", golden(t, "src"), name)
	must(t, "check", name)
	gets.Store(0)
	if out := must(t, "ls", name, "/bin"); !strings.Contains(out, "su2") || gets.Load() > 3 {
		t.Errorf("ls fetched %d blobs and shows %q", gets.Load(), out)
	}
	target, cache := t.TempDir(), t.TempDir()
	if out, err := background(t, target, "--cache", cache, name, target); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sameTree(t, target, "oci.jsonl")
	unmount(t, target)
	s.Close()
	if out, err := background(t, target, "--cache", cache, name, target); err == nil {
		t.Errorf("mounted from a registry that is gone: %s", out)
	}
	if out, err := background(t, target, "--cache", cache, "--offline", name, target); err != nil {
		t.Fatalf("offline: %v: %s", err, out)
	}
	sameTree(t, target, "oci.jsonl")
	unmount(t, target)
	if out, err := background(t, target, "--cache", t.TempDir(), "--offline", name, target); err == nil || !strings.Contains(out, "--offline") {
		t.Errorf("offline with an empty cache: %v: %s", err, out)
	}
}

// TestMountDamagedBootstrap spoils the bootstrap that the cache keeps: offline it is refused, else fetched again.
func TestMountDamagedBootstrap(t *testing.T) {
	target, cache := t.TempDir(), t.TempDir()
	name := golden(t, "v6-zstd")
	if out, err := background(t, target, "--cache", cache, name, target); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	unmount(t, target)
	boots, err := filepath.Glob(cache + "/bootstraps/*/image.boot")
	if err != nil || len(boots) != 1 {
		t.Fatalf("%v, %v", boots, err)
	}
	raw, err := os.ReadFile(boots[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(boots[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := background(t, target, "--cache", cache, "--offline", name, target); err == nil || !strings.Contains(out, "sha256") {
		t.Errorf("a damaged bootstrap is mounted: %v: %s", err, out)
	}
	if out, err := background(t, target, "--cache", cache, name, target); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sameTree(t, target, "oci.jsonl")
	unmount(t, target)
}

// TestMountWithoutData mounts an image that was copied without its blobs.
func TestMountWithoutData(t *testing.T) {
	dir, target := t.TempDir(), t.TempDir()
	must(t, "convert", golden(t, "src"), "oci:"+dir+"/x:lazy")
	must(t, "copy", "oci:"+dir+"/x:lazy-boot", "oci:"+dir+"/y:lazy")
	out, err := background(t, target, "--cache", t.TempDir(), "oci:"+dir+"/y:lazy", target)
	if err == nil || !strings.Contains(out, "lighter copy") || strings.Count(out, "\n") != 1 {
		t.Errorf("%v: %q", err, out)
	}
	if isMount(t, target) {
		t.Error("it is mounted all the same")
	}
}

func TestMountArchive(t *testing.T) {
	dir, target := t.TempDir(), t.TempDir()
	must(t, "convert", golden(t, "src"), "oci-archive:"+dir+"/x.tar:lazy")
	if out, err := background(t, target, "--cache", t.TempDir(), "oci-archive:"+dir+"/x.tar:lazy", target); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sameTree(t, target, "oci.jsonl")
	unmount(t, target)
}

// TestInterruptedConvert sends the signal of Ctrl-C.
func TestInterruptedConvert(t *testing.T) {
	started := make(chan struct{}, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case started <- struct{}{}:
		default:
		}
		<-r.Context().Done() // never answers
	}))
	defer s.Close()
	dir := t.TempDir()
	c := command("convert", "--work-dir", dir, strings.TrimPrefix(s.URL, "http://")+"/x:1", "oci:"+dir+"/x:lazy")
	var errs bytes.Buffer
	c.Stderr = &errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-started
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	w := time.AfterFunc(20*time.Second, func() { c.Process.Kill() })
	defer w.Stop()
	err := c.Wait()
	if code := c.ProcessState.ExitCode(); code != exitFailed || errs.String() != "lighter: interrupted\n" {
		t.Errorf("%v, status %d: %q", err, code, errs.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
