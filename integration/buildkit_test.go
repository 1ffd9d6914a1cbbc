// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

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
		{"scratch", func(t *testing.T, e *Env, b *BuildKit) { equalsOrdinary(t, e, b, small) }},
		{"staged", func(t *testing.T, e *Env, b *BuildKit) { equalsOrdinary(t, e, b, staged) }},
		{"empty", buildEmpty},
		{"again", buildAgain},
		{"reproducible", buildReproducibly},
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
	if dockerfile == small { // all its layers are new
		b.mustHoldNoGzip(t, lazy)
	}
	b.Build(t, dir, plainOutput(plain))
	e.Lighter(t, "check", lazy)
	mustBeTwoEntries(t, lazy)
	mustBeLayers(t, plain, gzipLayer)
	mustRead(t, unpacked(t, plain), listed(t, lazy))
}

// buildAgain looks at what later builds reuse: all of it after a restart,
// all but the changed layers otherwise, and nothing for other options.
func buildAgain(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, small)
	ref := e.Registry.Ref("again")
	converted := func(want int, output string, more ...string) {
		t.Helper()
		out := b.Build(t, dir, output, more...)
		if n := layersConverted(out); n != want {
			t.Errorf("%d layers were converted, want %d:\n%s", n, want, out)
		}
	}
	converted(4, nydusOutput(ref))
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
	converted(4, nydusOutput(ref)+",nydus-compressor=lz4_block")
	e.Lighter(t, "check", ref)
	if err := os.WriteFile(filepath.Join(dir, "from-context", "large"), []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	converted(2, nydusOutput(ref))
	e.Lighter(t, "check", ref)
	nydus := b.usage(t)
	b.Ctl(t, "prune", "--all")
	converted(4, nydusOutput(ref))
	if left := b.usage(t); left >= nydus {
		t.Errorf("%d bytes are used after pruning, %d before", left, nydus)
	}
	e.Lighter(t, "check", ref)
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

// buildEmpty builds an image without any layer.
func buildEmpty(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, "FROM scratch\nLABEL a=b\n")
	ref := e.Registry.Ref("empty")
	b.Build(t, dir, nydusOutput(ref))
	e.Lighter(t, "check", ref)
	b.Build(t, dir, nydusOutput(ref)+",nydus-index=none")
	e.Lighter(t, "check", ref)
	if l := listed(t, ref); len(l) != 1 {
		raw, _ := json.Marshal(l)
		t.Errorf("the image holds %s", raw)
	}
}
