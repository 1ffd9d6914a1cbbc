// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lighter/format/formattest"
)

const gzipLayer, nydusLayer = "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.nydus.blob.v1"

// TestBuildKitCaches exports caches of all kinds with either kind of output, and
// begins each time anew with what the cache has: no cache and no image mixes
// ordinary layers with Nydus blobs, and all images read the same.
func TestBuildKitCaches(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	b := e.StartBuildKit(t)
	dir := contextDir(t, e, small)
	one, two := e.Registry.Ref("image:one"), e.Registry.Ref("image:two")
	local := filepath.Join(t.TempDir(), "cache")
	for _, c := range []struct{ name, export, from string }{
		{"registry", "type=registry,mode=max,ref=" + e.Registry.Ref("cache"), "type=registry,ref=" + e.Registry.Ref("cache")},
		{"local", "type=local,mode=max,dest=" + local, "type=local,src=" + local},
		{"inline", "type=inline", "type=registry,ref=" + one},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, first := range kinds {
				for _, second := range kinds {
					os.RemoveAll(local)
					b.Ctl(t, "prune", "--all")
					b.Build(t, dir, first.output(one), "--export-cache", c.export)
					mustBeLayers(t, one, first.layer)
					if c.name == "registry" {
						mustBeLayers(t, e.Registry.Ref("cache"), gzipLayer)
					}
					b.Ctl(t, "prune", "--all")
					out := b.Build(t, dir, second.output(two), "--import-cache", c.from)
					if !cached(out, "] RUN ") {
						t.Errorf("RUN was not taken from the cache:\n%s", out)
					}
					mustBeLayers(t, two, second.layer)
					t.Logf("%s, then %s", first.layer, second.layer)
					mustRead(t, first.list(t, one), second.list(t, two))
					if second.layer == nydusLayer {
						e.Lighter(t, "check", two)
					}
					if first.layer == second.layer && c.name != "inline" && digestOf(t, one) != digestOf(t, two) {
						t.Errorf("of the cache comes %s, it was made with %s", digestOf(t, two), digestOf(t, one))
					}
				}
			}
		})
	}
}

// TestBuildKitMixed sends one build to both kinds of output, in either order and
// at once.
func TestBuildKitMixed(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	b := e.StartBuildKit(t)
	dir := contextDir(t, e, small)
	one, two := e.Registry.Ref("image:one"), e.Registry.Ref("image:two")
	for i := range kinds {
		first, second := kinds[i], kinds[1-i]
		b.Ctl(t, "prune", "--all")
		b.Build(t, dir, first.output(one))
		b.Build(t, dir, second.output(two))
		mustBeLayers(t, one, first.layer)
		mustBeLayers(t, two, second.layer)
		mustRead(t, first.list(t, one), second.list(t, two))
	}
	b.Ctl(t, "prune", "--all")
	b.Build(t, dir, nydusOutput(one), "--output", plainOutput(two))
	mustBeLayers(t, one, nydusLayer)
	mustBeLayers(t, two, gzipLayer)
	mustRead(t, listed(t, one), unpacked(t, two))
}

// kinds are the two kinds of output.
var kinds = []struct {
	output func(ref string) string
	layer  string // media type
	list   func(*testing.T, string) formattest.Listing
}{{nydusOutput, nydusLayer, listed}, {plainOutput, gzipLayer, unpacked}}

func plainOutput(ref string) string {
	return "type=image,name=" + ref + ",push=true,oci-mediatypes=true"
}

// mustBeLayers checks that all layers but a bootstrap are of one type.
func mustBeLayers(t *testing.T, ref, want string) {
	t.Helper()
	if want == nydusLayer {
		ref += "-data"
	}
	got := layerTypes(t, ref)
	if want == nydusLayer && len(got) > 0 {
		got = got[:len(got)-1]
	}
	if len(got) == 0 || slices.ContainsFunc(got, func(mt string) bool { return mt != want }) {
		t.Errorf("%s has layers %v, want %s alone", ref, got, want)
	}
}

func mustRead(t *testing.T, want, got formattest.Listing) {
	t.Helper()
	if len(want) < 2 {
		t.Errorf("the image holds %d files", len(want))
	}
	if d := formattest.Diff(want, got); d != "" {
		t.Errorf("the image reads otherwise:\n%s", d)
	}
}

// cached says whether buildctl's output tells of a cached step with that text.
func cached(out, step string) bool {
	for line := range strings.Lines(out) {
		if id, _, ok := strings.Cut(line, " "); ok && strings.Contains(line, step) {
			return strings.Contains(out, id+" CACHED\n")
		}
	}
	return false
}
