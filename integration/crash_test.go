// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lazyStage is a daemon on the plugin with the lazy Python image pulled, and
// the image's listing as overlay2 shows the ordinary one.
type lazyStage struct {
	*Daemon
	e    *Env
	ref  string
	want string // file
}

func newLazyStage(t *testing.T, o DaemonOptions, settings ...string) *lazyStage {
	t.Helper()
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Tiny, Python)
	s := &lazyStage{e: e, ref: e.convert(t, Python), want: e.Path(t, "want", "listing")}
	plain := e.StartDaemon(t, DaemonOptions{Name: "o"})
	plain.Docker(t, "pull", "-q", e.Registry.Ref(Python))
	text := side{Daemon: plain}.run(t, e.Registry.Ref(Python), "/listing", "/")
	if err := os.WriteFile(s.want, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	plain.Stop(t)
	s.Daemon = e.StartLighter(t, o, settings...)
	s.Docker(t, "pull", "-q", s.ref)
	return s
}

// same runs a container and compares all that it sees.
func (s *lazyStage) same(t *testing.T, ref string) {
	t.Helper()
	want, err := os.ReadFile(s.want)
	if err != nil {
		t.Fatal(err)
	}
	if got := (side{Daemon: s.Daemon}).run(t, ref, "/listing", "/") + "\n"; got != string(want) {
		t.Errorf("%s: %s", ref, difference(got, string(want)))
	}
}

// reader starts a container that reads and compares everything for so long.
func (s *lazyStage) reader(t *testing.T, d time.Duration) (id string) {
	t.Helper()
	listing := s.e.Binary(t, "integration/listing")
	id = s.Docker(t, "run", "-d", "--network=none", "-v", listing+":/listing:ro", "-v", s.want+":/data:ro", s.ref,
		"/listing", "-loop", d.String(), "-against", "/data", "/")
	t.Cleanup(func() { s.TryDocker("rm", "-f", id) })
	return id
}

// finish waits for a reader and returns what it printed; that it failed is an error.
func (s *lazyStage) finish(t *testing.T, id string) string {
	t.Helper()
	code := s.Docker(t, "wait", id)
	logs := s.Docker(t, "logs", id)
	if code != "0" {
		_, errOut, _ := tryCommand(time.Minute, s.Command("logs", id))
		t.Errorf("a reader failed with status %s: %s%s\n%s", code, logs, errOut, s.LogTail(30))
	}
	return logs
}

// dropCaches makes the kernel ask the file systems again.
func dropCaches(t *testing.T) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}

// The worker is killed again and again while containers read and compare every byte.
func TestWorkerKilled(t *testing.T) {
	kills := 40
	if os.Getenv("LIGHTER_SOAK") == "1" {
		kills = 500
	}
	killWorkers(t, kills)
}

func killWorkers(t *testing.T, kills int) {
	s := newLazyStage(t, DaemonOptions{})
	const pause = 300 * time.Millisecond
	length := time.Duration(kills) * pause * 3 / 2
	var ids []string
	for range 3 {
		ids = append(ids, s.reader(t, length))
	}
	start := time.Now()
	for range kills {
		time.Sleep(pause/2 + rand.N(pause))
		_, worker := s.PluginProcesses(t)
		KillProcess(t, worker)
		if rand.N(4) == 0 {
			dropCaches(t)
		}
	}
	t.Logf("%d kills in %v", kills, time.Since(start).Round(time.Second))
	for _, id := range ids {
		out := s.finish(t, id)
		t.Log(out)
		_, text, _ := strings.Cut(out, "slowest ")
		slowest, err := time.ParseDuration(text)
		if err != nil {
			t.Errorf("reader printed %q", out)
		} else if slowest > 2*time.Second {
			t.Errorf("an entry took %v", slowest)
		}
	}
	s.same(t, s.ref) // and the driver still works
}

// The whole plugin is killed: Docker starts it again, a restart repairs containers, nothing is lost.
func TestPluginKilled(t *testing.T) {
	s := newLazyStage(t, DaemonOptions{})
	s.Docker(t, "pull", "-q", s.e.Registry.Ref(Tiny))
	id := s.Docker(t, "run", "-d", "--network=none", s.ref, "sleep", "1000")
	s.Docker(t, "exec", id, "sh", "-c", "echo kept >/kept; cat /etc/debian_version")
	for range 3 {
		keeper, _ := s.PluginProcesses(t)
		KillProcess(t, keeper)
		s.PluginProcesses(t) // there again
		s.Docker(t, "restart", "-t", "1", id)
		if out := s.Docker(t, "exec", id, "cat", "/kept", "/usr/share/doc/tar/copyright"); !strings.HasPrefix(out, "kept\n") {
			t.Errorf("after the restart: %.100q", out)
		}
	}
	s.same(t, s.ref)
	if images := s.Docker(t, "images", "-q"); len(strings.Fields(images)) != 2 {
		t.Errorf("images: %s", images)
	}
	s.Docker(t, "rm", "-f", id)
}

// The same while the driver looks into the lazy image: no thread may go on waiting for an answer that nobody can give.
func TestPluginKilledBusy(t *testing.T) {
	s := newLazyStage(t, DaemonOptions{})
	ctx, stop := context.WithCancel(context.Background())
	var busy sync.WaitGroup
	defer busy.Wait()
	defer stop()
	for range 3 {
		busy.Go(func() {
			for ctx.Err() == nil { // calls that a kill cuts off fail
				if id, err := s.TryDocker("create", "--network=none", s.ref, "true"); err == nil {
					s.TryDocker("cp", strings.TrimSpace(id)+":/usr/share/doc/tar", filepath.Join(t.TempDir(), "doc"))
					s.TryDocker("rm", "-f", strings.TrimSpace(id))
				}
			}
		})
	}
	for range 6 {
		keeper, _ := s.PluginProcesses(t)
		dropCaches(t)
		time.Sleep(500*time.Millisecond + rand.N(500*time.Millisecond))
		KillProcess(t, keeper)
	}
	stop()
	busy.Wait()
	s.PluginProcesses(t)
	s.same(t, s.ref)
}

// dockerd is stopped, and killed, and started again.
func TestDaemonRestart(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprintf("live-restore=%v", live), func(t *testing.T) {
			s := newLazyStage(t, DaemonOptions{LiveRestore: live})
			id := s.Docker(t, "run", "-d", "--network=none", s.ref, "sleep", "1000")
			s.Docker(t, "exec", id, "sh", "-c", "echo kept >/kept")
			for _, stop := range []func(TB){s.Stop, s.Kill} {
				reader := s.reader(t, 15*time.Second)
				stop(t)
				time.Sleep(time.Second)
				s.Start(t)
				if live {
					s.finish(t, reader)
				} else if state := s.Docker(t, "inspect", "-f", "{{.State.Running}}", id); state == "true" {
					s.Docker(t, "stop", "-t", "1", id)
				}
				if !live {
					s.Docker(t, "start", id)
				}
				if out := s.Docker(t, "exec", id, "cat", "/kept", "/usr/share/doc/tar/copyright"); !strings.HasPrefix(out, "kept\n") {
					t.Errorf("after the restart: %.100q", out)
				}
				s.same(t, s.ref)
			}
			s.Docker(t, "rm", "-f", id)
		})
	}
}

// When the plugin dies while it takes a layer, Docker sends it the rest of the
// stream. That must not become a layer.
func TestKilledWhilePulling(t *testing.T) {
	for _, which := range []string{"keeper", "worker"} {
		t.Run(which, func(t *testing.T) {
			s := newLazyStage(t, DaemonOptions{})
			ordinary := s.e.Registry.Ref(Python)
			pull := make(chan error, 1)
			go func() { _, err := s.TryDocker("pull", "-q", ordinary); pull <- err }()
			keeper, victim := s.PluginProcesses(t)
			if which == "keeper" {
				victim = keeper
			}
			applying := filepath.Join(s.PluginState(t), "data", "overlay2", "*", "diff", "usr", "lib", "*")
			deadline := time.Now().Add(time.Minute)
			for {
				if found, _ := filepath.Glob(applying); len(found) > 3 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("no layer is being applied")
				}
				time.Sleep(5 * time.Millisecond)
			}
			KillProcess(t, victim)
			err := <-pull
			t.Logf("the pull under way: %v", err)
			if err == nil {
				s.same(t, ordinary)
			}
			s.Docker(t, "pull", "-q", ordinary)
			s.same(t, ordinary)
			s.same(t, s.ref)
		})
	}
}
