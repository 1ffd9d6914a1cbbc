// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// putMulti writes an ordinary image for several platforms, made of the golden
// one's layers, with an attestation entry as BuildKit adds it.
func putMulti(t *testing.T, target string, platforms ...v1.Platform) {
	t.Helper()
	ctx := context.Background()
	_, s := open(t, goldenLayout(t, "src"))
	root, err := s.Manifest(ctx, v1.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	im, err := parseManifest(root)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := readAll(ctx, s, im.Config)
	if err != nil {
		t.Fatal(err)
	}
	ref := parse(t, target)
	sink, err := OpenSink(ctx, ref, IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range im.Layers {
		if _, err := sink.Put(ctx, d, func() (io.ReadCloser, error) { return s.Open(ctx, d) }); err != nil {
			t.Fatal(err)
		}
	}
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, p := range platforms {
		conf := newBlob(bytes.ReplaceAll(raw, []byte(`"amd64"`), []byte(`"`+p.Architecture+`"`)), types.OCIConfigJSON)
		if _, err := sink.Put(ctx, conf.desc, conf.open); err != nil {
			t.Fatal(err)
		}
		child := im
		child.Config = conf.desc
		m := putJSON(t, sink, child, types.OCIManifestSchema1)
		idx.Manifests = append(idx.Manifests, entry(m, p))
	}
	att := entry(putJSON(t, sink, v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: im.Config, Layers: im.Layers}, types.OCIManifestSchema1), v1.Platform{OS: "unknown", Architecture: "unknown"})
	att.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	idx.Manifests = append(idx.Manifests, att)
	if _, err := sink.Put(ctx, im.Config, func() (io.ReadCloser, error) { return s.Open(ctx, im.Config) }); err != nil {
		t.Fatal(err)
	}
	putJSON(t, sink, idx, types.OCIImageIndex, ref.Tag)
	if err := sink.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

func putJSON(t *testing.T, sink Sink, v any, mt types.MediaType, tags ...string) Manifest {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	m := NewManifest(raw, mt)
	if err := sink.PutManifest(context.Background(), m, tags...); err != nil {
		t.Fatal(err)
	}
	return m
}

var (
	amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	riscv = v1.Platform{OS: "linux", Architecture: "riscv64"}
)

func TestAllPlatforms(t *testing.T) {
	for _, dir := range []string{"oci:" + t.TempDir() + "/x", testRegistry(t, nil) + "/x"} {
		putMulti(t, dir+":multi", amd64, arm64, riscv)
		res := convertTo(t, dir+":multi", dir+":lazy", Options{AllPlatforms: true})
		if len(res.Platforms) != 3 {
			t.Fatalf("%d platforms were converted, not 3", len(res.Platforms))
		}
		all := hows(res)
		if n := len(slices.DeleteFunc(all, func(p Phase) bool { return p != PhaseDone })); n != 3 {
			t.Errorf("%d layers were converted, not 3: %v", n, hows(res))
		}
		_, s := open(t, dir+":lazy")
		root, err := s.Manifest(context.Background(), v1.Descriptor{})
		if err != nil {
			t.Fatal(err)
		}
		idx, err := parseIndex(root)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, d := range idx.Manifests {
			order = append(order, d.Platform.Architecture, fmtFeatures(d.Platform))
		}
		want := []string{"amd64", "", "amd64", "full", "arm64", "", "arm64", "full", "riscv64", "", "riscv64", "full"}
		if !slices.Equal(order, want) {
			t.Errorf("entries are %v", order)
		}
		mustCheck(t, dir+":lazy")
		mustList(t, dir+":lazy")
		mustCheck(t, dir+":lazy-boot-linux-arm64-v8")
		mustCheck(t, dir+":lazy-data-linux-riscv64")
		again := convertTo(t, dir+":multi", dir+":lazy", Options{AllPlatforms: true})
		if again.Digest != res.Digest || slices.Contains(hows(again), PhaseDone) {
			t.Errorf("second run: %s with %v", again.Digest, hows(again))
		}
		_, s = open(t, dir+":lazy")
		im, err := OpenImage(context.Background(), s, &arm64)
		if err != nil || im.Manifest.Digest != res.Platforms[1].Full {
			t.Errorf("for arm64: %v, %v", im, err)
		}
	}
}

func fmtFeatures(p *v1.Platform) string {
	if slices.Equal(p.OSFeatures, []string{osFeature}) {
		return "full"
	}
	return ""
}

func TestOnePlatform(t *testing.T) {
	dir := "oci:" + t.TempDir() + "/x"
	putMulti(t, dir+":multi", arm64, riscv)
	res := convertTo(t, dir+":multi", dir+":one", Options{Platforms: []v1.Platform{{OS: "linux", Architecture: "arm64"}}})
	if len(res.Platforms) != 1 || res.Platforms[0].Platform != "linux/arm64/v8" {
		t.Errorf("platforms are %+v", res.Platforms)
	}
	if _, err := tryConvert(t, context.Background(), dir+":multi", dir+":none", Options{Platforms: []v1.Platform{{OS: "linux", Architecture: "s390x"}}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a platform that is not there: %v", err)
	}
	if _, err := tryConvert(t, context.Background(), goldenLayout(t, "src"), dir+":none", Options{Platforms: []v1.Platform{riscv}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a platform that is not the image's: %v", err)
	}
	if n := convertTo(t, dir+":multi", dir+":none", Options{AllPlatforms: true, Index: IndexNone}); len(n.Platforms) != 2 {
		t.Errorf("without small manifests: %+v", n)
	}
	mustCheck(t, dir)
}
