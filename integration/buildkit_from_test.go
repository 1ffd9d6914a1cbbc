// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

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
CMD ["cat", "/said"]
`

// TestBuildKitFrom builds on accelerated images, through a link that counts.
func TestBuildKitFrom(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
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
	f.e.Push(t, Debian)
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
		args := buildArgs(dir, "", nil)
		return f.b.TryCtl(t, args[:len(args)-2]...) // no output
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
