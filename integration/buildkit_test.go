// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"lighter/convert"
	"lighter/format/formattest"
)

// staged has what layers are made of: stages, whiteouts, links of both kinds,
// attributes and set-id bits.
const staged = `FROM BASE AS tools
RUN mkdir /made && echo one >/made/a && ln /made/a /made/b && ln -s a /made/c && chmod 6755 /made/a && rm -r /usr/share/doc && mkdir /usr/share/doc
FROM BASE
COPY --from=tools /made /copied
COPY --link from-context /linked/
RUN rm /linked/small && echo two >>/linked/large && mv /etc/hostname /etc/hostname.old || true
ENV WHO=lighter
CMD ["cat", "/linked/large"]
`

// scratch is a root file system as an archive, without any program run.
const scratch = `FROM scratch
ADD rootfs.tar /
COPY from-context /opt/
COPY from-context/large /opt/small
CMD ["/bin/none"]
`

// contextDir is a build context for both.
func contextDir(t testing.TB, e *Env, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("Dockerfile", strings.ReplaceAll(dockerfile, "BASE", e.Registry.Ref(Debian)))
	put("from-context/small", "small\n")
	put("from-context/large", strings.Repeat("a large file\n", 300_000))
	put("rootfs/etc/passwd", "root:x:0:0::/:/bin/none\n")
	put("rootfs/bin/none", "#!\n")
	if err := os.Chmod(filepath.Join(dir, "rootfs/bin/none"), 0o4755); err != nil {
		t.Fatal(err)
	}
	runCommand(t, time.Minute, exec.Command("tar", "-C", filepath.Join(dir, "rootfs"), "-cf", filepath.Join(dir, "rootfs.tar"), "."))
	return dir
}

func nydusOutput(ref string) string {
	return "type=image,name=" + ref + ",push=true,compression=nydus,oci-mediatypes=true"
}

// TestBuildKit runs our daemon, one for all; each part begins with an empty cache.
func TestBuildKit(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Debian)
	b := e.StartBuildKit(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *Env, *BuildKit)
	}{
		{"scratch", func(t *testing.T, e *Env, b *BuildKit) { equalsOrdinary(t, e, b, scratch) }},
		{"staged", func(t *testing.T, e *Env, b *BuildKit) { equalsOrdinary(t, e, b, staged) }},
		{"empty", buildEmpty},
		{"again", buildAgain},
		{"reproducible", buildReproducibly},
		{"outputs", buildOutputs},
		{"caches", buildCaches},
	} {
		t.Run(part.name, func(t *testing.T) {
			b.Ctl(t, "prune", "--all")
			part.test(t, e, b)
		})
	}
}

// equalsOrdinary builds an image for the plugin and compares it with the same
// build as an ordinary image.
func equalsOrdinary(t *testing.T, e *Env, b *BuildKit, dockerfile string) {
	dir := contextDir(t, e, dockerfile)
	lazy, plain := e.Registry.Ref("lazy"), e.Registry.Ref("plain")
	out := b.Build(t, dir, nydusOutput(lazy))
	if layersConverted(out) == 0 {
		t.Errorf("no layer was converted:\n%s", out)
	}
	if dockerfile == scratch { // all its layers are new
		b.mustHoldNoGzip(t, lazy)
	}
	b.Build(t, dir, "type=image,name="+plain+",push=true")
	e.Lighter(t, "check", lazy)
	mustBeTwoEntries(t, lazy)
	if d := formattest.Diff(unpacked(t, plain), listed(t, lazy)); d != "" {
		t.Errorf("the image reads otherwise than the ordinary one:\n%s", d)
	}
	if mt := layerTypes(t, plain); slices.Contains(mt, "application/vnd.oci.image.layer.nydus.blob.v1") {
		t.Errorf("the ordinary image has layers of %v", mt)
	}
}

// mustBeTwoEntries checks the index: the small manifest first, each entry with
// its platform, both children tagged.
func mustBeTwoEntries(t *testing.T, ref string) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Index(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 2 {
		t.Fatalf("the index has %d entries", len(m.Manifests))
	}
	layers := func(i int) int {
		im, err := idx.Image(m.Manifests[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		l, err := im.Layers()
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	if a, b := layers(0), layers(1); a != 1 || b < 2 {
		t.Errorf("the entries have %d and %d layers", a, b)
	}
	if p := m.Manifests[0].Platform; p == nil || p.OS != "linux" || len(p.OSFeatures) != 0 {
		t.Errorf("the first entry is for %v", p)
	}
	if p := m.Manifests[1].Platform; p == nil || !slices.Equal(p.OSFeatures, []string{"nydus.remoteimage.v1"}) {
		t.Errorf("the second entry is for %v", p)
	}
	for i, suffix := range []string{"-boot", "-data"} {
		d, err := remote.Head(r.Context().Tag("latest" + suffix))
		if err != nil || d.Digest != m.Manifests[i].Digest {
			t.Errorf("tag latest%s: %v, %v", suffix, d, err)
		}
	}
}

func layerTypes(t *testing.T, ref string) (out []string) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	im, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		out = append(out, string(l.MediaType))
	}
	return out
}

// unpacked lists an ordinary image as umoci unpacks it.
func unpacked(t *testing.T, ref string) formattest.Listing {
	t.Helper()
	dir := t.TempDir()
	layout := filepath.Join(dir, "layout") + ":x"
	runCommand(t, 5*time.Minute, exec.Command("skopeo", "copy", "--src-tls-verify=false", "docker://"+ref, "oci:"+layout))
	runCommand(t, 5*time.Minute, exec.Command("umoci", "unpack", "--image", layout, filepath.Join(dir, "bundle")))
	l, err := formattest.ListDir(filepath.Join(dir, "bundle", "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listed lists an accelerated image through the plain reader, every chunk verified.
func listed(t *testing.T, ref string) formattest.Listing {
	t.Helper()
	ctx := context.Background()
	r, err := convert.ParseReference(ref, false)
	if err != nil {
		t.Fatal(err)
	}
	src, err := convert.OpenSource(ctx, r, convert.IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	im, err := convert.OpenImage(ctx, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := im.Open(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	l, err := formattest.ListBootstrap(o.Bootstrap, o.OpenBlob)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// buildAgain looks at what later builds reuse: all of it after a restart,
// all but the changed layers otherwise, and nothing for other options.
func buildAgain(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, scratch)
	ref := e.Registry.Ref("again")
	converted := func(want int, output string, more ...string) {
		t.Helper()
		out := b.Build(t, dir, output, more...)
		if n := layersConverted(out); n != want {
			t.Errorf("%d layers were converted, want %d:\n%s", n, want, out)
		}
	}
	converted(3, nydusOutput(ref))
	first := digestOf(t, ref)
	converted(0, nydusOutput(ref))
	b.Stop(t)
	b.Start(t)
	converted(0, nydusOutput(ref))
	if again := digestOf(t, ref); again != first {
		t.Errorf("the same build has digest %s, then %s", first, again)
	}
	b.Kill(t)
	b.Start(t)
	converted(0, nydusOutput(ref))
	converted(3, nydusOutput(ref)+",nydus-compressor=lz4_block")
	e.Lighter(t, "check", ref)
	if err := os.WriteFile(filepath.Join(dir, "from-context", "large"), []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	converted(2, nydusOutput(ref))
	e.Lighter(t, "check", ref)
	nydus := b.usage(t)
	b.Ctl(t, "prune", "--all")
	converted(3, nydusOutput(ref))
	if left := b.usage(t); left >= nydus {
		t.Errorf("%d bytes are used after pruning, %d before", left, nydus)
	}
	e.Lighter(t, "check", ref)
}

// mustHoldNoGzip looks into the daemon's store for ordinary layers; the
// bootstrap layer of ref is the one gzip blob that may be there.
func (b *BuildKit) mustHoldNoGzip(t *testing.T, ref string) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(b.Root, "runc-*", "content", "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("content store: %d blobs, %v", len(blobs), err)
	}
	r, err := name.ParseReference(ref + "-boot")
	if err != nil {
		t.Fatal(err)
	}
	im, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		raw, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(raw), "\x1f\x8b") && filepath.Base(blob) != m.Layers[0].Digest.Hex {
			t.Errorf("a layer of %d bytes was made on the way", len(raw))
		}
	}
}

func layersConverted(out string) int {
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "converting layer "); ok {
			seen[strings.Fields(rest)[0]] = true
		}
	}
	return len(seen)
}

// usage is what the daemon says that its cache takes, in bytes.
func (b *BuildKit) usage(t *testing.T) (sum int64) {
	t.Helper()
	var all []struct{ Size int64 }
	if err := json.Unmarshal([]byte(b.Ctl(t, "du", "--format", "{{json .}}")), &all); err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		sum += u.Size
	}
	return sum
}

func digestOf(t *testing.T, ref string) v1.Hash {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(r)
	if err != nil {
		t.Fatal(err)
	}
	return d.Digest
}

// buildReproducibly builds twice without cache and finds the same digest.
func buildReproducibly(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, staged)
	var got []v1.Hash
	for _, tag := range []string{"one", "two"} {
		ref := e.Registry.Ref("same:" + tag)
		b.Build(t, dir, nydusOutput(ref)+",rewrite-timestamp=true", "--no-cache", "--opt", "build-arg:SOURCE_DATE_EPOCH=1700000000")
		r, err := name.ParseReference(ref + "-data")
		if err != nil {
			t.Fatal(err)
		}
		d, err := remote.Head(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, d.Digest, digestOf(t, ref))
		e.Lighter(t, "check", ref)
	}
	if got[0] != got[2] || got[1] != got[3] {
		t.Errorf("two builds have digests %v", got)
	}
}

// buildOutputs writes archives, which hold the full manifest, and refuses
// what cannot be.
func buildOutputs(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, scratch)
	archive := filepath.Join(t.TempDir(), "image.tar")
	b.Build(t, dir, "type=oci,compression=nydus,dest="+archive)
	e.Lighter(t, "check", "oci-archive:"+archive)
	b.Build(t, dir, "type=image,name="+e.Registry.Ref("none")+",push=true,compression=nydus,nydus-index=none")
	e.Lighter(t, "check", e.Registry.Ref("none"))
	for output, want := range map[string]string{
		"type=image,compression=nydus,nydus-colour=red":     "is unknown",
		"type=image,compression=gzip,nydus-compressor=zstd": "goes with compression=nydus",
	} {
		out, err := b.TryCtl(t, buildArgs(dir, output, nil)...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, want an error with %q:\n%s", output, err, want, out)
		}
	}
}

// buildEmpty builds an image without any layer.
func buildEmpty(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, "FROM scratch\nLABEL a=b\n")
	ref := e.Registry.Ref("empty")
	b.Build(t, dir, nydusOutput(ref)+",nydus-index=none")
	e.Lighter(t, "check", ref)
	if l := listed(t, ref); len(l) != 1 {
		raw, _ := json.Marshal(l)
		t.Errorf("the image holds %s", raw)
	}
}

// buildCaches exports the cache after a build for the plugin: it holds ordinary
// layers, and what is built of it has the same blobs.
func buildCaches(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, scratch)
	ref, plain, cache := e.Registry.Ref("cached"), e.Registry.Ref("cached-plain"), e.Registry.Ref("cache")
	b.Build(t, dir, nydusOutput(ref), "--export-cache", "type=registry,mode=max,ref="+cache)
	first := digestOf(t, ref)
	for _, mt := range layerTypes(t, cache) {
		if mt != "application/vnd.oci.image.layer.v1.tar+gzip" {
			t.Errorf("the cache has a layer of %s", mt)
		}
	}
	b.Ctl(t, "prune", "--all")
	out := b.Build(t, dir, nydusOutput(ref), "--import-cache", "type=registry,ref="+cache)
	if !strings.Contains(out, "CACHED") {
		t.Errorf("nothing was taken from the cache:\n%s", out)
	}
	if again := digestOf(t, ref); again != first {
		t.Errorf("built of the cache the image is %s, before %s", again, first)
	}
	b.Build(t, dir, "type=image,name="+plain+",push=true")
	for _, mt := range layerTypes(t, plain) {
		if mt != "application/vnd.oci.image.layer.v1.tar+gzip" {
			t.Errorf("the ordinary image has a layer of %s", mt)
		}
	}
	out, err := b.TryCtl(t, buildArgs(dir, nydusOutput(ref), []string{"--export-cache", "type=inline"})...)
	if err == nil || !strings.Contains(out, "inline cache does not go") {
		t.Errorf("an inline cache: %v\n%s", err, out)
	}
}
