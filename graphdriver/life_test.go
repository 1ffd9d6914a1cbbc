// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/moby/go-archive"
	"golang.org/x/sys/unix"
)

// lazyImage makes a lazy layer "lazy", and "app", an ordinary layer above it.
func (e *env) lazyImage() {
	e.t.Helper()
	e.layer("lazy", "", bootstrapLayer(e.t))
	e.layer("app", "lazy", makeTar(e.t, dir("etc/"), reg("etc/app", "app\n")))
}

// container creates and gets a container's layer as Docker does, by way of its init layer.
func (e *env) container(id, parent string) string {
	e.t.Helper()
	must(e.t, e.d.CreateReadWrite(id+"-init", parent, CreateOptions{}))
	init, err := e.d.Get(id+"-init", "")
	must(e.t, err)
	must(e.t, os.WriteFile(filepath.Join(init, ".dockerenv"), nil, 0o755))
	must(e.t, e.d.Put(id+"-init"))
	must(e.t, e.d.CreateReadWrite(id, id+"-init", CreateOptions{}))
	dir, err := e.d.Get(id, "")
	must(e.t, err)
	return dir
}

func (e *env) wantMounted(when string, want int) {
	e.t.Helper()
	if got, _ := e.m.count(); got != want {
		e.t.Errorf("%s: %d lazy layers mounted, want %d", when, got, want)
	}
	depth, err := mountDepth(e.d.diffDir("lazy"))
	if err != nil || depth != want {
		e.t.Errorf("%s: %d mounts, %v, want %d", when, depth, err, want)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// A container above a lazy layer behaves as one above overlay2's: write, diff, commit, remove.
func TestContainerAboveLazy(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	e.wantMounted("after pull", 0)
	root := e.container("c1", "app")
	e.wantMounted("container got", 1)
	if got := readFile(t, filepath.Join(root, "etc/hostname")) + readFile(t, filepath.Join(root, "etc/app")); got != "lazy\napp\n" {
		t.Errorf("read %q", got)
	}
	if fi, err := os.Stat(filepath.Join(root, "bin/su")); err != nil || fi.Mode()&os.ModeSetuid == 0 {
		t.Errorf("set-id file: %v, %v", fi, err)
	}
	must(t, os.WriteFile(filepath.Join(root, "etc/hostname"), []byte("changed\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "new"), []byte("new\n"), 0o600))
	must(t, os.Remove(filepath.Join(root, "bin/su")))
	must(t, os.RemoveAll(filepath.Join(root, "var")))
	must(t, os.Mkdir(filepath.Join(root, "var"), 0o700))

	changes, err := e.d.Changes("c1", "c1-init")
	must(t, err)
	kinds := make(map[string]archive.ChangeType)
	for _, c := range changes {
		kinds[c.Path] = c.Kind
	}
	want := map[string]archive.ChangeType{"/etc": archive.ChangeModify, "/etc/hostname": archive.ChangeModify, "/new": archive.ChangeAdd,
		"/bin": archive.ChangeModify, "/bin/su": archive.ChangeDelete, "/var": archive.ChangeModify, "/var/lib": archive.ChangeDelete}
	delete(kinds, "/") // a change of the root's times, depending on the clock
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Errorf("changes %v, want %v", kinds, want)
	}
	if size, err := e.d.DiffSize("c1", "c1-init"); err != nil || size < 12 || size > 100_000 {
		t.Errorf("diff size %d, %v", size, err)
	}

	// commit
	layer := e.diff("c1", "c1-init")
	e.layer("commit", "app", layer)
	if !bytes.Equal(e.diff("commit", "app"), layer) {
		t.Error("the committed layer's diff is not what was committed")
	}
	must(t, e.d.Put("c1"))
	e.wantMounted("container put", 0)
	root2 := e.container("c2", "commit")
	if got := readFile(t, filepath.Join(root2, "etc/hostname")); got != "changed\n" {
		t.Errorf("commit has %q", got)
	}
	for _, gone := range []string{"bin/su", "var/lib"} {
		if _, err := os.Lstat(filepath.Join(root2, gone)); !os.IsNotExist(err) {
			t.Errorf("%s in the commit: %v", gone, err)
		}
	}
	must(t, e.d.Put("c2"))
	for _, id := range []string{"c2", "c2-init", "c1", "c1-init", "commit", "app", "lazy"} {
		must(t, e.d.Remove(id))
	}
	e.wantMounted("all removed", 0)
	if left := must2(os.ReadDir(filepath.Join(e.d.root, "layers"))); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}

// Whatever compares two mounted trees finds the lazy layers mounted, also when nobody else uses them.
func TestDiffAgainstAnother(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	data := e.diff("app", "") // not its parent: all of the tree
	if !bytes.Contains(data, []byte("lazy\n")) {
		t.Error("the lazy layer's files are missing")
	}
	size, err := e.d.DiffSize("app", "")
	if err != nil || size == 0 {
		t.Errorf("size %d, %v", size, err)
	}
	if changes, err := e.d.Changes("app", "lazy"); err != nil || len(changes) == 0 || len(changes) > 3 {
		t.Errorf("changes %v, %v", changes, err)
	}
	e.wantMounted("afterwards", 0)
}

func TestReferences(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	e.container("c1", "app")
	e.container("c2", "app")
	_, err := e.d.Get("c1", "") // docker cp
	must(t, err)
	must(t, e.d.Put("c1"))
	e.wantMounted("c1 has one Get left", 1)
	must(t, e.d.Put("c1"))
	e.wantMounted("c2 is left", 1)
	must(t, e.d.Remove("c2")) // without Put
	e.wantMounted("c2 removed", 0)

	// the layer itself, which overlay2 gives without a mount of its own
	for range 2 {
		_, err := e.d.Get("lazy", "")
		must(t, err)
	}
	must(t, e.d.Put("lazy"))
	e.wantMounted("one Get left", 1)
	must(t, e.d.Put("lazy"))
	e.wantMounted("none left", 0)
	must(t, e.d.Put("lazy"))
	_, err = e.d.Get("lazy", "")
	must(t, err)
	e.wantMounted("after a Put too many", 1)
}

func TestLinger(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	e.d.o.Linger = 3 * time.Second
	e.container("c1", "app") // gets and puts c1-init on the way
	if _, mounts := e.m.count(); mounts != 1 {
		t.Errorf("mounted %d times", mounts)
	}
	must(t, e.d.Put("c1"))
	e.wantMounted("just put", 1)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if mounted, _ := e.m.count(); mounted == 0 {
			break
		}
	}
	e.wantMounted("a while later", 0)
}

func TestConcurrentGetPut(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	e.layer("lazy2", "app", bootstrapLayer(t))
	e.m.trees = map[string]string{"lazy2": filepath.Join(e.dir, "tree2")}
	must(t, os.CopyFS(e.m.trees["lazy2"], os.DirFS(e.m.tree)))
	var wg sync.WaitGroup
	for n := range 12 {
		id := fmt.Sprintf("c%d", n)
		parent := []string{"app", "lazy2", "lazy"}[n%3]
		must(t, e.d.CreateReadWrite(id, parent, CreateOptions{}))
		for range 2 {
			wg.Go(func() {
				for range 15 {
					dir, err := e.d.Get(id, "")
					if err != nil {
						t.Error(err)
						return
					}
					if data, err := os.ReadFile(filepath.Join(dir, "etc/hostname")); string(data) != "lazy\n" {
						t.Errorf("%s: read %q, %v", id, data, err)
					}
					if err := e.d.Put(id); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	e.wantMounted("afterwards", 0)
	if depth, err := mountDepth(e.d.diffDir("lazy2")); err != nil || depth != 0 {
		t.Errorf("%d mounts, %v", depth, err)
	}
}

// Live-restore: Init comes again to the process that has everything mounted.
func TestRepeatedInit(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	root := e.container("c1", "app")
	must(t, e.d.Init(Config{Home: "/home/lighter:latest"}))
	e.wantMounted("after Init", 1)
	if got := readFile(t, filepath.Join(root, "etc/hostname")); got != "lazy\n" {
		t.Errorf("read %q", got)
	}
	_, err := e.d.Get("c1", "") // dockerd looks at each running container
	must(t, err)
	must(t, e.d.Put("c1"))
	readFile(t, filepath.Join(root, "etc/hostname"))
	e.wantMounted("dockerd has looked", 1)
	must(t, e.d.Put("c1"))
	e.wantMounted("container has ended", 0)
}

// A crash: the next process gets no Init, and containers go on running.
func TestRestartWithoutInit(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	root := e.container("c1", "app")
	e.open()
	e.wantMounted("new process", 1)
	if got := readFile(t, filepath.Join(root, "etc/hostname")); got != "lazy\n" {
		t.Errorf("read %q", got)
	}
	e.container("c2", "app")
	must(t, e.d.Put("c2"))
	e.wantMounted("another container came and went", 1)
	must(t, e.d.Put("c1"))
	e.wantMounted("container has ended", 0)
	if depth, err := mountDepth(e.d.mergedDir("c1")); err != nil || depth != 0 {
		t.Errorf("%d overlays, %v", depth, err)
	}
	root = must2(e.d.Get("c1", ""))
	readFile(t, filepath.Join(root, "etc/hostname"))
	must(t, e.d.Put("c1"))
}

func TestNeverInitialised(t *testing.T) {
	d, err := New(Options{Root: filepath.Join(plainDisk(t), "data"), Mounter: newFakeMounter("/")})
	must(t, err)
	if err := d.Create("a", "", CreateOptions{}); err == nil || !strings.Contains(err.Error(), "Init") {
		t.Errorf("got %v", err)
	}
	if d.Exists("a") {
		t.Error("exists")
	}
	if len(d.Status()) == 0 {
		t.Error("no status")
	}
}

func TestCleanup(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	e.container("c1", "app")
	must(t, e.d.Cleanup())
	e.wantMounted("after Cleanup", 0)
	if mounts, err := e.d.mountsBelow(); err != nil || len(mounts) > 0 {
		t.Errorf("%v, %v", mounts, err)
	}
	root := must2(e.d.Get("c1", ""))
	if got := readFile(t, filepath.Join(root, "etc/hostname")); got != "lazy\n" {
		t.Errorf("read %q", got)
	}
	must(t, e.d.Put("c1"))
	e.wantMounted("used again and put", 0)
}

// Docker repeats an ApplyDiff that was cut off with what is left of the stream. That must never succeed.
func TestApplyDiffTwice(t *testing.T) {
	e := newEnv(t)
	c := e.serve()
	data := makeTar(t, reg("first", strings.Repeat("1", 100_000)), reg("second", "2"))
	cut := io.MultiReader(bytes.NewReader(data[:60_000]), iotest.ErrReader(errors.New("connection lost")))
	must(t, e.d.Create("half", "", CreateOptions{}))
	if _, err := e.d.ApplyDiff("half", "", cut); err == nil || !strings.Contains(err.Error(), "connection lost") {
		t.Fatalf("got %v", err)
	}
	refuse := func(when string) {
		t.Helper()
		_, err := c.ApplyDiff("half", "", bytes.NewReader(makeTar(t, reg("second", "2"))))
		if err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "half") {
			t.Errorf("%s: %v", when, err)
		}
		if err == nil || !strings.Contains(err.Error(), "connection lost") {
			t.Errorf("%s: the first cause is not told: %v", when, err)
		}
	}
	refuse("same process")
	e.open()
	c = e.serve()
	refuse("next process")
	if _, err := c.Get("half", ""); err == nil {
		t.Error("half a layer was mounted")
	}
	if _, err := c.Diff("half", ""); err == nil {
		t.Error("half a layer has a diff")
	}
	must(t, c.Remove("half"))
	must(t, c.Create("half", "", nil))
	_, err := c.ApplyDiff("half", "", bytes.NewReader(data))
	must(t, err)
	if _, err := c.ApplyDiff("half", "", bytes.NewReader(data)); err == nil {
		t.Error("a complete layer was applied again")
	}
	if !bytes.Equal(e.diff("half", ""), data) {
		t.Error("wrong diff after all")
	}
}

// Init means that Docker has nothing under way, so what a crash has left half-made is removed.
func TestInitRemovesUnfinished(t *testing.T) {
	e := newEnv(t)
	must(t, e.d.Create("half", "", CreateOptions{}))
	if _, err := e.d.ApplyDiff("half", "", iotest.ErrReader(errors.New("lost"))); err == nil {
		t.Fatal("no error")
	}
	e.layer("whole", "", makeTar(t, reg("f", "x")))
	e.open()
	must(t, e.d.Init(Config{Home: "/home/x"}))
	if e.d.Exists("half") || !e.d.Exists("whole") {
		t.Errorf("half: %v, whole: %v", e.d.Exists("half"), e.d.Exists("whole"))
	}
	if _, err := os.Lstat(e.d.layerDir("half")); !os.IsNotExist(err) {
		t.Errorf("folder: %v", err)
	}
}

// The reason of a failure reaches a client that is still sending.
func TestApplyDiffErrorWhileSending(t *testing.T) {
	e := newEnv(t)
	c := e.serve()
	must(t, c.Create("bad", "", nil))
	data := append(makeTar(t, reg("f", "1"), reg("f", "2")), bytes.Repeat([]byte{1}, 20<<20)...)
	_, err := c.ApplyDiff("bad", "", bytes.NewReader(data))
	if err == nil || !strings.Contains(err.Error(), "occurs twice") {
		t.Errorf("got %v", err)
	}
}

func TestHostileIDs(t *testing.T) {
	e := newEnv(t)
	c := e.serve()
	bad := []string{"", ".", "..", "../x", "a/b", "/abs", "a\x00b", "-x", ".hidden", "l", "a b", "ü", strings.Repeat("x", 129), "a\nb"}
	for _, id := range bad {
		for what, err := range map[string]error{
			"Create": c.Create(id, "", nil),
			"Remove": c.Remove(id),
			"Get":    second(c.Get(id, "")),
			"Put":    c.Put(id),
			"Meta":   second(c.GetMetadata(id)),
			"Diff":   second(c.Diff(id, "")),
			"Size":   second(c.DiffSize(id, "")),
			"Change": second(c.Changes(id, "")),
			"Apply":  second(c.ApplyDiff(id, "", strings.NewReader(""))),
		} {
			if err == nil || !strings.Contains(err.Error(), "layer id") {
				t.Errorf("%s of %q: %v", what, id, err)
			}
		}
		if c.Exists(id) {
			t.Errorf("%q exists", id)
		}
		if id != "" {
			if err := c.Create("child", id, nil); err == nil || !strings.Contains(err.Error(), "parent") {
				t.Errorf("parent %q: %v", id, err)
			}
		}
	}
	if err := c.Create("child", "missing", nil); err == nil {
		t.Error("a missing parent is taken")
	}
	if _, err := c.ApplyDiff("missing", "", strings.NewReader("")); err == nil {
		t.Error("a missing layer is applied")
	}
}

func second[T any](_ T, err error) error { return err }

// Nobody but root gets at the data, where set-id files lie.
func TestDataIsPrivate(t *testing.T) {
	e := newEnv(t)
	for path, want := range map[string]os.FileMode{"": 0o710, "layers": 0o700, "blobs": 0o700, "overlay2": 0o710} {
		fi, err := os.Stat(filepath.Join(e.d.root, path))
		must(t, err)
		if fi.Mode().Perm() != want {
			t.Errorf("%q has mode %o, want %o", path, fi.Mode().Perm(), want)
		}
	}
}

// A tar can't write outside its layer, and can't make Diff read there.
func TestHostileTar(t *testing.T) {
	e := newEnv(t)
	outside := filepath.Join(e.dir, "outside")
	must(t, os.MkdirAll(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("TOP-SECRET"), 0o600))
	n := 0
	for name, data := range map[string][]byte{
		"dots":     makeTar(t, reg("../../../../../../outside/x", "x"), reg("/../../outside/y", "y")),
		"absolute": makeTar(t, reg(outside+"/z", "z")),
		"symlink":  makeTar(t, file{linkHeader("out", outside), ""}, reg("out/s", "s"), reg("out/secret", "SECRET")),
		"hardlink": makeTar(t, file{hardHeader("h", outside+"/secret"), ""}, reg("f", "x")),
		"dotlink":  makeTar(t, file{linkHeader("up", "../../../../../../../../"+outside), ""}, reg("up/s", "s")),
	} {
		n++
		id := fmt.Sprintf("hostile%d", n)
		must(t, e.d.Create(id, "", CreateOptions{}))
		_, err := e.d.ApplyDiff(id, "", bytes.NewReader(data))
		t.Logf("%s: %v", name, err)
		if entries := must2(os.ReadDir(outside)); len(entries) != 1 || readFile(t, filepath.Join(outside, "secret")) != "TOP-SECRET" {
			t.Errorf("%s: wrote outside", name)
		}
		if err == nil {
			rc, err := e.d.Diff(id, "")
			must(t, err)
			got, err := io.ReadAll(rc)
			rc.Close()
			if bytes.Contains(got, []byte("TOP-SECRET")) {
				t.Errorf("%s: read outside", name)
			}
			if err == nil && !bytes.Equal(got, data) {
				t.Errorf("%s: other bytes", name)
			}
		}
		must(t, e.d.Remove(id))
	}
}

func TestProtocol(t *testing.T) {
	e := newEnv(t)
	c := e.serve()
	if exact, err := c.ExactDiffs(); err != nil || !exact {
		t.Errorf("exact diffs: %v, %v", exact, err)
	}
	rec := func(path, body string) string {
		t.Helper()
		w := newRecorder()
		Handler(e.d).ServeHTTP(w, must2(http.NewRequest("POST", path, strings.NewReader(body))))
		return strings.TrimSpace(w.body.String())
	}
	for path, want := range map[string]string{
		"/GraphDriver.Capabilities": `{"Capabilities":{"ReproducesExactDiffs":true}}`,
		"/GraphDriver.Exists":       `{"Exists":false}`,
		"/Plugin.Activate":          `{"Implements":["GraphDriver"]}`,
	} {
		if got := rec(path, "{}"); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := rec("/GraphDriver.Create", `{"ID":`); !strings.Contains(got, `"Err":`) {
		t.Errorf("broken JSON: %s", got)
	}
	e.d.o.ExtraStatus = func() [][2]string { return [][2]string{{"Cache", "1 GB"}} }
	e.lazyImage()
	got := fmt.Sprint(c.Status())
	for _, want := range []string{"[Native Overlay Diff true]", "[Lazy layers 1]", "[Cache 1 GB]"} {
		if !strings.Contains(got, want) {
			t.Errorf("status lacks %s: %s", want, got)
		}
	}
}

// With a user namespace lazy layers are refused, and ordinary ones work.
func TestUserNamespace(t *testing.T) {
	e := newEnv(t)
	must(t, e.d.Init(Config{Home: "/h", UIDMaps: []IDMap{{0, 100000, 65536}}, GIDMaps: []IDMap{{0, 100000, 65536}}}))
	e.layer("plain", "", makeTar(t, reg("f", "x")))
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(e.d.diffDir("plain"), "f"), &st))
	if st.Uid != 100000 {
		t.Errorf("owner %d", st.Uid)
	}
	if !bytes.Equal(e.diff("plain", ""), makeTar(t, reg("f", "x"))) {
		t.Error("other diff")
	}
	must(t, e.d.Create("lazy", "", CreateOptions{}))
	if _, err := e.d.ApplyDiff("lazy", "", bytes.NewReader(bootstrapLayer(t))); err == nil || !strings.Contains(err.Error(), "userns-remap") {
		t.Errorf("got %v", err)
	}
}
