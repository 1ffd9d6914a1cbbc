// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// crashEnv has what the child process of a crash test is to do: "<point> <data dir>".
const crashEnv = "LIGHTER_TEST_CRASH"

func TestMain(m *testing.M) {
	if do := os.Getenv(crashEnv); do != "" {
		point, arg, _ := strings.Cut(do, " ")
		if point == "serve" {
			serveFUSE(arg)
		}
		crash(point, arg)
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// crash does what a driver does all day, until it is killed at the given point.
func crash(point, root string) {
	faultHook = func(p string) {
		if p == point {
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	d := must2(New(Options{Root: root, Mounter: newFakeMounter(filepath.Join(filepath.Dir(root), "tree")), Linger: -1}))
	for _, l := range crashLayers {
		if err := d.Create(l.id, "", CreateOptions{}); err != nil {
			panic(err)
		}
		data := must2(os.ReadFile(filepath.Join(filepath.Dir(root), l.id)))
		must2(d.ApplyDiff(l.id, "", bytes.NewReader(data)))
	}
	for _, l := range crashLayers {
		if err := d.Remove(l.id); err != nil {
			panic(err)
		}
	}
}

var crashLayers = []struct {
	id   string
	data func(t testing.TB) []byte
}{
	{"plain", func(t testing.TB) []byte { return makeTar(t, dir("d/"), reg("d/f", "content")) }},
	{"blob", func(testing.TB) []byte { return uncompressedBlob([]byte(strings.Repeat("blob", 5000))) }},
	{"lazy", func(t testing.TB) []byte { return bootstrapLayer(t) }},
}

// After kill -9 at any point, with and without another Init, each layer is there as a whole, or refused, or not there;
// and Docker can remove and pull it again.
func TestKilled(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	for _, point := range []string{"apply-begun", "apply-split", "apply-blob", "apply-record", "record-written", "apply-done", "remove-overlay", "remove-blob"} {
		for _, again := range []string{"with Init", "without Init"} {
			t.Run(point+" "+again, func(t *testing.T) {
				e := newEnv(t)
				for _, l := range crashLayers {
					must(t, os.WriteFile(filepath.Join(e.dir, l.id), l.data(t), 0o600))
				}
				cmd := exec.Command(self)
				cmd.Env = append(os.Environ(), crashEnv+"="+point+" "+e.d.root)
				out, err := cmd.CombinedOutput()
				if err == nil || cmd.ProcessState.ExitCode() != -1 {
					t.Fatalf("the child was not killed: %v\n%s", err, out)
				}
				e.open()
				if again == "with Init" {
					must(t, e.d.Init(Config{Home: "/home/lighter:latest"}))
				}
				for _, l := range crashLayers {
					e.checkSurvivor(l.id, l.data(t), again == "with Init")
				}
			})
		}
	}
}

// checkSurvivor checks that a layer is whole, refused or gone, and can be made again.
func (e *env) checkSurvivor(id string, data []byte, fresh bool) {
	t := e.t
	t.Helper()
	e.d.mu.Lock()
	l := e.d.layers[id]
	e.d.mu.Unlock()
	switch {
	case l != nil && l.bad != nil:
		if fresh {
			t.Errorf("%s: unfinished after Init", id)
		}
		if _, err := e.d.Get(id, ""); err == nil {
			t.Errorf("%s: an unfinished layer is mounted", id)
		}
		if _, err := e.d.Diff(id, ""); err == nil {
			t.Errorf("%s: an unfinished layer has a diff", id)
		}
		if _, err := e.d.ApplyDiff(id, "", bytes.NewReader(data)); err == nil {
			t.Errorf("%s: an unfinished layer is applied", id)
		}
	case l != nil:
		if !bytes.Equal(e.diff(id, ""), data) {
			t.Errorf("%s: other bytes", id)
		}
	}
	must(t, e.d.Remove(id))
	if left, _ := os.ReadDir(e.d.blobDir()); id == "blob" && len(left) > 0 {
		t.Errorf("%s: blob %s is left", id, left[0].Name())
	}
	if e.d.Exists(id) {
		t.Errorf("%s: exists", id)
	}
	if _, err := os.Lstat(e.d.layerDir(id)); !os.IsNotExist(err) {
		t.Errorf("%s: folder: %v", id, err)
	}
	e.layer(id, "", data)
	if !bytes.Equal(e.diff(id, ""), data) {
		t.Errorf("%s: other bytes the second time", id)
	}
}

// A client that dies in the middle of a layer leaves a refused layer.
func TestClientDies(t *testing.T) {
	e := newEnv(t)
	c := e.serve()
	must(t, c.Create("cut", "", nil))
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := c.ApplyDiff("cut", "", pr)
		done <- err
	}()
	data := makeTar(t, reg("f", strings.Repeat("x", 1<<20)))
	_, err := pw.Write(data[:1<<19])
	must(t, err)
	pw.CloseWithError(io.ErrClosedPipe)
	if err := <-done; err == nil {
		t.Fatal("no error")
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := c.ApplyDiff("cut", "", bytes.NewReader(data[1<<19:]))
		if err == nil {
			t.Fatal("the rest of a layer was taken for the layer")
		}
		if strings.Contains(err.Error(), "refused") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	must(t, c.Remove("cut"))
}

// deadFUSE mounts a FUSE file system whose server is gone.
func deadFUSE(t *testing.T, target string) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	opts := "fd=" + strconv.Itoa(fd) + ",rootmode=40000,user_id=0,group_id=0"
	must(t, unix.Mount("dead", target, "fuse", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, opts))
	must(t, unix.Close(fd))
}

// After the whole plugin was killed, lazy layers have mounts that answer with an error. The next Get replaces them.
func TestDeadMount(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	deadFUSE(t, e.d.diffDir("lazy"))
	if n := mountCount(t, e.d.diffDir("lazy")); n != 1 {

		t.Fatalf("%d mounts", n)
	}
	e.open()
	root := e.container("c1", "app")
	if got := readFile(t, filepath.Join(root, "etc/hostname")); got != "lazy\n" {
		t.Errorf("read %q", got)
	}
	must(t, e.d.Put("c1"))
	e.wantMounted("put", 0)
	deadFUSE(t, e.d.diffDir("lazy"))
	for _, id := range []string{"c1", "c1-init", "app", "lazy"} {
		must(t, e.d.Remove(id))
	}
	if n := mountCount(t, e.d.diffDir("lazy")); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
}

func mountCount(t *testing.T, path string) int {
	t.Helper()
	n, err := mountDepth(path)
	must(t, err)
	return n
}

// serveFUSE shows a small tree until the process is killed.
func serveFUSE(target string) {
	root := &fusefs.Inode{}
	server := must2(fusefs.Mount(target, root, &fusefs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true, AllowOther: true},
		OnAdd: func(ctx context.Context) {
			etc := root.NewPersistentInode(ctx, &fusefs.Inode{}, fusefs.StableAttr{Mode: unix.S_IFDIR})
			root.AddChild("etc", etc, false)
			etc.AddChild("hostname", root.NewPersistentInode(ctx, &fusefs.MemRegularFile{Data: []byte("lazy\n"), Attr: fuse.Attr{Mode: 0o644}}, fusefs.StableAttr{}), false)
		},
	}))
	os.Stdout.WriteString("ready\n")
	server.Wait()
}

// childFUSE mounts from a process of its own, which kill ends.
func childFUSE(t *testing.T, target string) (kill func()) {
	t.Helper()
	cmd := exec.Command(must2(os.Executable()))
	cmd.Env = append(os.Environ(), crashEnv+"=serve "+target)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	end := sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	t.Cleanup(end)
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	return end
}

// The whole plugin is killed under a running container, whose overlay stays behind over a dead mount. What Docker does
// then must give the container its files again, and the right number of mounts. A container of an ordinary image never
// notices anything.
func TestContainerAboveDeadMount(t *testing.T) {
	for name, calls := range map[string]string{
		"docker restart":        "GPGP",
		"docker stop and start": "PG",
		"docker cp":             "GP",
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.lazyImage()
			e.layer("plain", "", makeTar(t, reg("f", "plain\n")))
			must(t, e.d.Create("plain2", "plain", CreateOptions{}))
			must(t, e.d.CreateReadWrite("pc", "plain2", CreateOptions{}))
			pc := must2(e.d.Get("pc", ""))
			kill := childFUSE(t, e.d.diffDir("lazy"))
			must(t, e.d.CreateReadWrite("c1", "app", CreateOptions{}))
			root := must2(e.d.Get("c1", "")) // finds a mount, and keeps it
			if got := readFile(t, filepath.Join(root, "etc/hostname")); got != "lazy\n" {
				t.Fatalf("read %q", got)
			}
			kill()
			if data, err := os.ReadFile(filepath.Join(root, "etc/hostname")); err == nil {
				t.Fatalf("still reads %q", data)
			}
			e.m.mounted = make(map[string]string)
			e.open()
			for _, call := range calls {
				if call == 'P' {
					must(t, e.d.Put("c1"))
					continue
				}
				root = must2(e.d.Get("c1", ""))
				if got := readFile(t, filepath.Join(root, "etc/hostname")); got != "lazy\n" {
					t.Errorf("read %q", got)
				}
			}
			e.wantMounted("container runs again", 1)
			if n := mountCount(t, e.d.mergedDir("c1")); n != 1 {
				t.Errorf("%d overlays while it runs", n)
			}
			must(t, e.d.Put("c1"))
			if n := mountCount(t, e.d.mergedDir("c1")); n != 0 {
				t.Errorf("%d overlays at its end", n)
			}
			e.wantMounted("container has ended", 0)
			if got := readFile(t, filepath.Join(pc, "f")); got != "plain\n" {
				t.Errorf("read %q", got)
			}
			if n := mountCount(t, e.d.mergedDir("pc")); n != 1 {
				t.Errorf("%d overlays of the ordinary container", n)
			}
		})
	}
}
