// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"lighter/format/formattest"
	"lighter/integration/link"
)

// fromDir is a build context with this Dockerfile, which names its base BASE,
// and one file.
func fromDir(t testing.TB, dockerfile, base string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"Dockerfile": strings.ReplaceAll(dockerfile, "BASE", base), "file": strings.Repeat("a file\n", 1000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// onBase reads a little of the base, changes it in each way, and adds.
const onBase = `FROM BASE
RUN python3 -c 'import json; print(json.dumps([1, 2]))' >/said && rm /etc/issue && chmod 0700 /root && rm -r /usr/share/doc && mkdir /usr/share/doc && echo x >>/etc/hosts.allow
COPY file /opt/
COPY --link file /linked/
CMD ["cat", "/said"]
`

// TestBuildKitFrom builds on accelerated images, through a link that counts.
func TestBuildKitFrom(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Debian, Python)
	e.convert(t, Python)
	k, err := link.New(e.Registry.Host, link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	f := &fromTest{e: e, k: k, b: e.StartBuildKit(t)}
	f.unpacked, f.packed = imageSize(t, e.Registry.Ref(Python))
	for _, part := range []struct {
		name string
		test func(*fromTest, *testing.T)
	}{
		{"metadata", (*fromTest).metadata},
		{"away", (*fromTest).away},
		{"ordinary", (*fromTest).ordinary},
		{"stages", (*fromTest).stages},
		{"cached", (*fromTest).cached},
		{"caches", (*fromTest).caches},
		{"private", (*fromTest).private},
		{"killed", (*fromTest).killed},
		{"refused", (*fromTest).refused},
		{"runs", (*fromTest).runs},
		{"steps", (*fromTest).steps},
	} {
		t.Run(part.name, func(t *testing.T) {
			f.b.Ctl(t, "prune", "--all")
			part.test(f, t)
		})
	}
}

type fromTest struct {
	e                *Env
	k                *link.Link
	b                *BuildKit
	unpacked, packed int64
}

// ref names an image through the link.
func (f *fromTest) ref(name string) string {
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return f.k.Addr + "/" + name
}

// moved is the bytes that do gets and sends.
func (f *fromTest) moved(do func()) (down, up int64) {
	down, up = f.k.Bytes(), f.k.Sent()
	do()
	return f.k.Bytes() - down, f.k.Sent() - up
}

// sameTimes makes two builds of one Dockerfile comparable.
var sameTimes = []string{"--opt", "build-arg:SOURCE_DATE_EPOCH=1700000000"}

// mustEqual compares an accelerated image with an ordinary one.
func (f *fromTest) mustEqual(t *testing.T, lazy, plain string) {
	t.Helper()
	f.e.Lighter(t, "check", f.e.Registry.Ref(lazy))
	if d := formattest.Diff(unpacked(t, f.e.Registry.Ref(plain)), listed(t, f.e.Registry.Ref(lazy))); d != "" {
		t.Errorf("%s reads otherwise than %s:\n%s", lazy, plain, d)
	}
}

// mustMove bounds what went through the link.
func mustMove(t *testing.T, what string, got, most int64) {
	t.Helper()
	t.Logf("%s: %s", what, Megabytes(got))
	if got > most {
		t.Errorf("%s: %s, more than %s", what, Megabytes(got), Megabytes(most))
	}
}

// metadata pushes an image that adds a label to its base, in all forms of the base.
func (f *fromTest) metadata(t *testing.T) {
	for _, base := range []string{":lazy", ":lazy-boot", ":lazy-data"} {
		f.b.Ctl(t, "prune", "--all")
		dir := fromDir(t, "FROM BASE\nLABEL form=any\n", f.ref(Python+base))
		down, up := f.moved(func() { f.b.Build(t, dir, nydusOutput(f.ref("labelled"))) })
		mustMove(t, base+": fetched for a label", down, f.packed/30)
		mustMove(t, base+": sent for a label", up, f.packed/30)
		mustBeTwoEntries(t, f.e.Registry.Ref("labelled"))
		if a, b := blobsOf(t, f.e.Registry.Ref(Python+":lazy-data")), blobsOf(t, f.e.Registry.Ref("labelled")+"-data"); !slices.Equal(a, b) {
			t.Errorf("%s: the base has data blobs %v, the result %v", base, a, b)
		}
		if a, b := historyOf(t, f.e.Registry.Ref(Python+":lazy-data")), historyOf(t, f.e.Registry.Ref("labelled")+"-data"); len(b) != len(a)+1 {
			t.Errorf("%s: the base has history\n%v\nthe result\n%v", base, a, b)
		}
	}
	f.mustEqual(t, "labelled", Python)
}

// blobsOf are the data blobs of a full manifest.
func blobsOf(t *testing.T, ref string) (out []string) {
	t.Helper()
	im := imageAt(t, ref)
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers[:len(m.Layers)-1] {
		out = append(out, l.Digest.Hex)
	}
	return out
}

func historyOf(t *testing.T, ref string) []v1.History {
	t.Helper()
	c, err := imageAt(t, ref).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.History
}

func imageAt(t *testing.T, ref string) v1.Image {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	im, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// steps runs a program of the base, and compares with an ordinary build.
func (f *fromTest) steps(t *testing.T) {
	lazy := fromDir(t, onBase, f.ref(Python+":lazy"))
	down, up := f.moved(func() { f.b.Build(t, lazy, nydusOutput(f.ref("built"))+",rewrite-timestamp=true", sameTimes...) })
	mustMove(t, "fetched to run Python", down, f.packed/4)
	mustMove(t, "sent", up, f.packed/30)
	mustBeTwoEntries(t, f.e.Registry.Ref("built"))
	f.b.Build(t, fromDir(t, onBase, f.ref(Python)), "type=image,name="+f.ref("plain")+",push=true,rewrite-timestamp=true", sameTimes...)
	f.mustEqual(t, "built", "plain")
}

// ordinary makes an ordinary image on an accelerated base, after an
// accelerated one and before another.
func (f *fromTest) ordinary(t *testing.T) {
	dir := fromDir(t, onBase, f.ref(Python+":lazy-data"))
	f.b.Build(t, dir, nydusOutput(f.ref("first")))
	f.b.Build(t, dir, "type=image,name="+f.ref("gzip")+",push=true")
	for _, mt := range layerTypes(t, f.e.Registry.Ref("gzip")) {
		if !strings.HasSuffix(mt, "+gzip") {
			t.Errorf("the ordinary image has a layer of %s", mt)
		}
	}
	f.mustEqual(t, "first", "gzip")
	before := digestOf(t, f.e.Registry.Ref("first"))
	f.b.Build(t, dir, nydusOutput(f.ref("first")))
	if after := digestOf(t, f.e.Registry.Ref("first")); after != before {
		t.Errorf("the accelerated image is %s before an ordinary one of the same build, %s after", before, after)
	}
	im := imageAt(t, f.e.Registry.Ref("gzip"))
	c, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	full := 0
	for _, h := range c.History {
		if !h.EmptyLayer {
			full++
		}
	}
	if full != len(c.RootFS.DiffIDs) || len(c.History) < 4 || c.History[len(c.History)-2].EmptyLayer {
		t.Errorf("%d layers and history %v", len(c.RootFS.DiffIDs), c.History)
	}
}

// stages copies from an accelerated image, and builds a stage on another.
func (f *fromTest) stages(t *testing.T) {
	const dockerfile = `FROM BASE AS tools
RUN python3 -c 'open("/made", "w").write("made")'
FROM ORDINARY
COPY --from=tools /made /
COPY --from=BASE /usr/bin/python3.11 /copied
COPY --from=BASE --link /etc/passwd /linked/
RUN --mount=type=bind,from=BASE,target=/base cp /base/etc/group /bound
`
	build := func(base, output string) {
		f.b.Build(t, fromDir(t, strings.ReplaceAll(dockerfile, "ORDINARY", f.ref(Debian)), f.ref(base)), output+",rewrite-timestamp=true", sameTimes...)
	}
	build(Python+":lazy", nydusOutput(f.ref("staged")))
	build(Python, "type=image,name="+f.ref("staged-plain")+",push=true")
	f.mustEqual(t, "staged", "staged-plain")
}

// cached builds again from the cache, after a restart and after a kill.
func (f *fromTest) cached(t *testing.T) {
	build := func(step string) string {
		return f.b.Build(t, fromDir(t, onBase+step, f.ref(Python+":lazy")), nydusOutput(f.ref("again")))
	}
	build("")
	first := digestOf(t, f.e.Registry.Ref("again"))
	for i, do := range []func(){func() {}, func() { f.b.Stop(t); f.b.Start(t) }, func() { f.b.Kill(t); f.b.Start(t) }} {
		do()
		down, _ := f.moved(func() {
			if n := layersConverted(build("")); n != 0 {
				t.Errorf("%d layers were converted again", n)
			}
		})
		mustMove(t, "fetched for a cached build", down, f.packed/100)
		if again := digestOf(t, f.e.Registry.Ref("again")); again != first {
			t.Errorf("the image is %s, then %s", first, again)
		}
		// What an earlier step read is not fetched again.
		down, _ = f.moved(func() { build("RUN python3 -c 'import json; print(" + strconv.Itoa(i) + ")' >/said\n") })
		mustMove(t, "fetched for the same files", down, f.packed/20)
	}
	used := f.b.usage(t)
	f.b.Ctl(t, "prune", "--all")
	if left := f.b.usage(t); left > used/20 {
		t.Errorf("%d bytes are used after pruning, %d before", left, used)
	}
	images, err := filepath.Glob(filepath.Join(f.b.Root, "*", "lazy", "images", "*"))
	if err != nil || len(images) != 0 {
		t.Errorf("pruning left %v, %v", images, err)
	}
	var kept int64 // on disk: files without a chunk may stay
	chunks, err := filepath.Glob(filepath.Join(f.b.Root, "*", "lazy", "cache", "blobs", "*.data"))
	for _, c := range chunks {
		var st syscall.Stat_t
		if err := syscall.Stat(c, &st); err != nil {
			t.Fatal(err)
		}
		kept += st.Blocks * 512
	}
	if err != nil || kept > 0 {
		t.Errorf("pruning left %d bytes of chunks, %v", kept, err)
	}
	build("")
	if again := digestOf(t, f.e.Registry.Ref("again")); len(blobsOf(t, f.e.Registry.Ref("again")+"-data")) == 0 {
		t.Errorf("after pruning the image is %s", again)
	}
}

// away takes the registry away when a base is cached: steps that read what was
// read before run, others fail with an error and not for ever.
func (f *fromTest) away(t *testing.T) {
	base := f.ref(Python) + "@" + digestOf(t, f.e.Registry.Ref(Python+":lazy")).String()
	step := func(run string) (string, error) {
		dir := fromDir(t, "FROM BASE\nRUN "+run+"\n", base)
		return f.b.TryCtl(t, buildArgs(dir, "", nil)...)
	}
	if out, err := step("python3 -c 'import json'"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f.e.Registry.Stop()
	defer f.e.Registry.Start(t)
	if out, err := step("python3 -c 'import json; print(2)'"); err != nil {
		t.Errorf("with the registry away: %v\n%s", err, out)
	}
	if out, err := step("cat /usr/lib/python3/dist-packages/numpy/core/_multiarray_umath*.so >/dev/null"); err == nil {
		t.Errorf("with the registry away, files that were not read before are read:\n%s", out)
	}
}

// caches exports the cache of a build on an accelerated image, and builds from it.
func (f *fromTest) caches(t *testing.T) {
	f.b.Build(t, contextDir(t, f.e, small), nydusOutput(f.ref("small")))
	f.b.Ctl(t, "prune", "--all")
	dir := fromDir(t, "FROM BASE\nCOPY file /opt/\nCOPY --link file /linked/\n", f.ref("small"))
	for _, kind := range []string{"registry,mode=max", "inline"} {
		name := "cached-" + kind[:6]
		export := "type=" + kind
		from := f.ref(name)
		if kind != "inline" {
			from = f.ref("cache")
			export += ",ref=" + from
		}
		f.b.Build(t, dir, nydusOutput(f.ref(name)), "--export-cache", export)
		f.b.Ctl(t, "prune", "--all")
		out := f.b.Build(t, dir, nydusOutput(f.ref(name+"-again")), "--import-cache", "type=registry,ref="+from)
		if !strings.Contains(out, "CACHED") {
			t.Errorf("%s: nothing was taken from the cache:\n%s", kind, out)
		}
		if d := formattest.Diff(listed(t, f.e.Registry.Ref(name)), listed(t, f.e.Registry.Ref(name+"-again"))); d != "" {
			t.Errorf("%s: built from the cache the image reads otherwise:\n%s", kind, d)
		}
		f.b.Ctl(t, "prune", "--all")
	}
}

// private builds on an image of a registry that wants the password that the
// client alone has.
func (f *fromTest) private(t *testing.T) {
	const user, password = "somebody", "a secret of the client"
	behind := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: f.e.Registry.Host})
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if u, p, _ := req.BasicAuth(); u != user || p != password {
			rw.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		behind.ServeHTTP(rw, req)
	}))
	t.Cleanup(front.Close)
	host := strings.TrimPrefix(front.URL, "http://")
	dir := fromDir(t, onBase, host+"/"+Python+":lazy")
	if out, err := f.b.TryCtl(t, buildArgs(dir, nydusOutput(host+"/private"), nil)...); err == nil {
		t.Errorf("without the password:\n%s", out)
	}
	config := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(`{"auths":{"`+host+`":{"auth":"`+auth+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", config)
	f.b.Build(t, dir, nydusOutput(host+"/private"))
	f.e.Lighter(t, "check", f.e.Registry.Ref("private"))
	found := exec.Command("grep", "-rlF", "-e", password, "-e", auth, f.b.Root, f.b.Log)
	if out, err := found.Output(); err == nil {
		t.Errorf("the password is in %s", out)
	}
}

// lazyProcesses are the daemon's processes that serve mounts, by their argument.
func (f *fromTest) lazyProcesses(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, _ := os.ReadFile(file)
		args := strings.Split(string(raw), "\x00")
		if len(args) > 2 && strings.HasPrefix(args[2], f.b.Root) && strings.HasPrefix(args[1], "lazybase-") {
			out[args[1]], _ = strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return out
}

// killed kills what serves a base while a step reads it: the worker alone is a
// pause, its keeper an error of that step, and the daemon leaves nothing behind.
func (f *fromTest) killed(t *testing.T) {
	step := func(n int) []string {
		dir := fromDir(t, "FROM BASE\nRUN echo "+strconv.Itoa(n)+" && for i in 1 2 3 4 5 6; do cat /usr/bin/* /usr/lib/x86_64-linux-gnu/*.so* >/dev/null && sleep 0.5 || exit 1; done\n", f.ref(Python+":lazy"))
		return buildArgs(dir, "", nil)
	}
	during := func(n int, do func()) (string, error) {
		type result struct {
			out string
			err error
		}
		done := make(chan result, 1)
		go func() {
			out, err := f.b.TryCtl(t, step(n)...)
			done <- result{out, err}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := waitFor(ctx, "the step", func() bool { return len(f.lazyProcesses(t)) == 2 }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		do()
		r := <-done
		return r.out, r.err
	}
	kill := func(name string) {
		if err := syscall.Kill(f.lazyProcesses(t)[name], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := during(1, func() { kill("lazybase-worker"); time.Sleep(time.Second); kill("lazybase-worker") }); err != nil {
		t.Errorf("with its worker killed: %v\n%s", err, out)
	}
	if out, err := during(2, func() { kill("lazybase-keeper") }); err == nil {
		t.Errorf("with its keeper killed the step does not fail:\n%s", out)
	}
	f.b.Ctl(t, step(3)...)
	during(4, func() { f.b.Kill(t) })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := waitFor(ctx, "the server's end", func() bool { return len(f.lazyProcesses(t)) == 0 }); err != nil {
		t.Error(err)
	}
	f.b.Start(t)
	f.b.Ctl(t, step(5)...)
	f.b.Stop(t)
	if left := f.lazyProcesses(t); len(left) != 0 {
		t.Errorf("processes %v outlive the daemon", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, f.b.Root+"/runc-overlayfs/lazy") {
			t.Errorf("a mount outlives the daemon: %s", line)
		}
	}
	f.b.Start(t)
}

// refused names what cannot be built on.
func (f *fromTest) refused(t *testing.T) {
	im := imageAt(t, f.e.Registry.Ref(Python+":lazy-boot"))
	layers, err := im.Layers()
	if err != nil {
		t.Fatal(err)
	}
	push := func(ref string, im v1.Image) {
		r, err := name.ParseReference(ref)
		if err == nil {
			err = remote.Write(r, im)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// As docker push leaves it: without annotations.
	z, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := mutate.AppendLayers(empty.Image, static.NewLayer(raw, types.DockerLayer))
	if err != nil {
		t.Fatal(err)
	}
	push(f.e.Registry.Ref("bare"), bare)
	tiny, err := imageAt(t, f.e.Registry.Ref(Debian)).Layers()
	if err != nil {
		t.Fatal(err)
	}
	above, err := mutate.AppendLayers(im, tiny[0])
	if err != nil {
		t.Fatal(err)
	}
	push(f.e.Registry.Ref("above"), above)
	for ref, want := range map[string]string{"bare": "lost its annotations", "above": "lies over an accelerated image: such"} {
		dir := fromDir(t, "FROM BASE\nRUN true\n", f.ref(ref))
		out, err := f.b.TryCtl(t, buildArgs(dir, nydusOutput(f.ref("none")), nil)...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("FROM %s: %v, want an error with %q\n%s", ref, err, want, out)
		}
	}
	dir := fromDir(t, "FROM BASE\nRUN true\n", f.ref(Python+":lazy"))
	out, err := f.b.TryCtl(t, buildArgs(dir, nydusOutput(f.ref("none"))+",nydus-chunk-size=65536", nil)...)
	if err == nil || !strings.Contains(out, "does not go with") {
		t.Errorf("chunks of another size than the base's: %v\n%s", err, out)
	}
}

// runs starts what was built, and what was built on that, under Docker.
func (f *fromTest) runs(t *testing.T) {
	f.b.Build(t, fromDir(t, onBase, f.ref(Python+":lazy")), nydusOutput(f.ref("one")))
	f.b.Build(t, fromDir(t, "FROM BASE\nRUN python3 -c 'print(open(\"/said\").read() * 2)' >/twice\nCMD [\"cat\", \"/twice\"]\n", f.ref("one")), nydusOutput(f.ref("two")))
	f.e.Lighter(t, "check", f.e.Registry.Ref("two"))
	d := f.e.StartLighter(t, DaemonOptions{})
	for ref, want := range map[string]string{"one": "[1, 2]", "two": "[1, 2]\n[1, 2]"} {
		if out := d.Docker(t, "run", "--rm", "--network=none", f.ref(ref)); strings.TrimSpace(out) != want {
			t.Errorf("%s printed %q, want %q", ref, out, want)
		}
	}
}
