// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/lazyfs"
	"lighter/lazyfs/backend"
	"lighter/lazyfs/keeper"
	"lighter/lazyfs/mounts"
)

// The test binary is also the processes that it tests: a test must not touch a
// mount that its own process serves.
const envRole = "LIGHTER_TEST_ROLE"

var roles = map[string]func() error{
	"server": serverMain,
}

func TestMain(m *testing.M) {
	name := os.Getenv(envRole)
	if name == "" {
		os.Exit(m.Run())
	}
	role := roles[name]
	if role == nil {
		fmt.Fprintln(os.Stderr, "no such role:", name)
		os.Exit(2)
	}
	if err := role(); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// role returns a command that runs this binary as name. It ends with the test.
func role(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), envRole+"="+name), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// newManager is how every serving process of these tests is set up.
func newManager(store string, k mounts.Keeper, lock *os.File) (*mounts.Manager, *lazyfs.Store, error) {
	s, err := lazyfs.NewStore(store, lazyfs.StoreOptions{ReadTimeout: 10 * time.Second, Lock: lock})
	if err != nil {
		return nil, nil, err
	}
	m, err := mounts.New(mounts.Options{Store: s, Keeper: k, Opener: dirOpener})
	return m, s, err
}

// envCrash makes every fetch of data crash the process.
const envCrash = "LIGHTER_TEST_CRASH"

type crashing struct{}

func (crashing) Open(context.Context, string) (lazyfs.Source, error) {
	os.Exit(7)
	return nil, nil
}

func dirOpener(s mounts.Spec) lazyfs.Opener {
	if os.Getenv(envCrash) != "" {
		return crashing{}
	}
	var all []backend.Opener
	for _, d := range s.BlobDirs {
		all = append(all, backend.NewDir(d))
	}
	return backend.Chain(all...)
}

// request is a line that tells a server what to do.
type request struct {
	Op     string // mount, unmount, list, touch
	ID     string
	Spec   mounts.Spec
	Target string
}

type response struct {
	Error string
	List  []mounts.Status
}

// serverMain mounts in one process what its standard input asks for.
func serverMain() error {
	k := keeper.NewLocal()
	m, s, err := newManager(os.Getenv("LIGHTER_TEST_STORE"), k, nil)
	if err != nil {
		return err
	}
	ctx := context.Background()
	enc := json.NewEncoder(os.Stdout)
	for dec := json.NewDecoder(os.Stdin); ; {
		var r request
		if err := dec.Decode(&r); err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		if err := enc.Encode(obey(ctx, m, r)); err != nil {
			return err
		}
	}
	if err := m.Close(ctx); err != nil {
		return err
	}
	if err := k.Close(); err != nil {
		return err
	}
	return s.Close()
}

func obey(ctx context.Context, m *mounts.Manager, r request) response {
	var a response
	var err error
	switch r.Op {
	case "mount":
		err = m.Mount(ctx, r.ID, r.Spec, r.Target)
	case "unmount":
		err = m.Unmount(ctx, r.ID)
	case "touch": // what a worker must not do, but does when it mounts an overlayfs
		err = touchAndDie(r.Target)
	case "list":
		a.List = m.List()
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

// touchAndDie has many threads wait for answers of the own process, and kills
// that.
func touchAndDie(dir string) error {
	for range 200 {
		go func() {
			for {
				var st unix.Statfs_t
				unix.Statfs(dir, &st)
			}
		}()
	}
	time.Sleep(100 * time.Millisecond)
	return unix.Kill(os.Getpid(), unix.SIGKILL)
}

// server is a process that mounts.
type server struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	stop func() // unmounts everything; at the test's end in any case
}

// startServer starts one, which is killed when the test takes too long: then
// its mounts die, and nothing is left hanging in them.
func startServer(t *testing.T, store string) *server {
	t.Helper()
	cmd := role(t, "server", "LIGHTER_TEST_STORE="+store)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: cmd, in: in, out: bufio.NewReader(out)}
	watchdog(t, time.Minute, cmd.Process)
	s.stop = sync.OnceFunc(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// watchdog kills processes after d and aborts all mounts, unless the test has
// ended: whoever is stuck gets an error.
func watchdog(t *testing.T, d time.Duration, ps ...*os.Process) {
	timer := time.AfterFunc(d, func() {
		fmt.Fprintln(os.Stderr, "watchdog: test takes longer than", d)
		for _, p := range ps {
			p.Kill()
		}
		dirs.Range(func(dir, _ any) bool {
			unix.Unmount(dir.(string), unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			return true
		})
	})
	t.Cleanup(func() { timer.Stop() })
}

// dirs are the directories that tests have mounted on.
var dirs sync.Map

func (s *server) do(t *testing.T, r request) response {
	t.Helper()
	if err := json.NewEncoder(s.in).Encode(r); err != nil {
		t.Fatal(err)
	}
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a response
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// mount mounts spec on a new directory and returns that.
func (s *server) mount(t *testing.T, id string, spec mounts.Spec) string {
	t.Helper()
	target := mountDir(t)
	if a := s.do(t, request{Op: "mount", ID: id, Spec: spec, Target: target}); a.Error != "" {
		t.Fatal(a.Error)
	}
	return target
}

// mountPrefix begins the names of all directories that tests mount on.
const mountPrefix = "lighter-mounts-"

// mountDir returns a new directory; what is mounted there goes with the test.
func mountDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", mountPrefix)
	if err != nil {
		t.Fatal(err)
	}
	dirs.Store(dir, true)
	t.Cleanup(func() {
		dirs.Delete(dir)
		for unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// golden returns the path of a file of the golden images.
func golden(t *testing.T, path string) string {
	t.Helper()
	root := os.Getenv("LIGHTER_GOLDEN")
	if root == "" {
		root = "../../../shared/golden"
	}
	p, err := filepath.Abs(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("golden images: %v (LIGHTER_GOLDEN names their directory)", err)
	}
	return p
}

// listing returns what the listing tool prints for a tree, line by line.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	cmd := exec.Command("python3", golden(t, "../tools/listing.py"), dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing of %s: %v", dir, err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}
