// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"lighter/format"
	"lighter/format/formattest"
)

func hows(r *Result) []Phase {
	var out []Phase
	for _, p := range r.Platforms {
		for _, l := range p.Layers {
			out = append(out, l.How)
		}
	}
	return out
}

func TestConvertLayout(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	src := goldenLayout(t, "src")
	first := convertTo(t, src, "oci:"+a+"/x:lazy", Options{})
	if want := []Phase{PhaseDone, PhaseDone, PhaseDone}; !slices.Equal(hows(first), want) {
		t.Errorf("first run: layers were %v, not %v", hows(first), want)
	}
	second := convertTo(t, src, "oci:"+b+"/x:lazy", Options{Jobs: 1, Build: format.BuildOptions{Workers: 1}})
	if first.Digest != second.Digest {
		t.Errorf("two runs gave %s and %s", first.Digest, second.Digest)
	}
	again := convertTo(t, src, "oci:"+a+"/x:lazy", Options{})
	if again.Digest != first.Digest {
		t.Errorf("with reuse: %s, not %s", again.Digest, first.Digest)
	}
	if want := []Phase{PhaseReused, PhaseReused, PhaseReused}; !slices.Equal(hows(again), want) {
		t.Errorf("second run: layers were %v, not %v", hows(again), want)
	}
	level := convertTo(t, src, "oci:"+a+"/x:lazy", Options{Build: format.BuildOptions{ChunkSize: 1 << 16}})
	if slices.Contains(hows(level), PhaseReused) {
		t.Errorf("other options: layers were %v", hows(level))
	}
	for _, tag := range []string{"lazy", "lazy-boot", "lazy-data"} {
		mustCheck(t, "oci:"+b+"/x:"+tag)
		mustList(t, "oci:"+b+"/x:"+tag)
	}
	mustCheck(t, "oci:"+b+"/x")
	mustCheck(t, "oci:"+a+"/x")
}

func TestConvertCompressors(t *testing.T) {
	for _, c := range []format.Compressor{format.Zstd, format.LZ4Block, format.None} {
		for _, d := range []format.Digester{format.Blake3, format.SHA256} {
			name := "oci:" + t.TempDir() + "/x:" + c.String()
			convertTo(t, goldenLayout(t, "src"), name, Options{Build: format.BuildOptions{Compressor: &c, Digester: d}})
			mustCheck(t, name)
			mustList(t, name)
		}
	}
}

// TestConvertVersion expects all annotations to say which RAFS version it is.
func TestConvertVersion(t *testing.T) {
	for version, want := range map[int]string{0: "6", 5: "5", 6: "6"} {
		name := "oci:" + t.TempDir() + "/x:1"
		convertTo(t, goldenLayout(t, "src"), name, Options{Build: format.BuildOptions{Version: version}})
		_, s := open(t, name)
		im, err := OpenImage(context.Background(), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		d, err := im.BootstrapLayer()
		if err != nil || d.Annotations[annFSVersion] != want || im.Spec.Annotations[annFSVersion] != want {
			t.Errorf("version %d: %v, %v, %v", version, im.Spec.Annotations, d.Annotations, err)
		}
		mustList(t, name)
	}
}

// TestIndex holds the two-entry index against what other clients expect of it.
func TestIndex(t *testing.T) {
	name := "oci:" + t.TempDir() + "/x:lazy"
	convertTo(t, goldenLayout(t, "src"), name, Options{})
	ctx := context.Background()
	_, s := open(t, name)
	root, err := s.Manifest(ctx, v1.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	idx, err := parseIndex(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(idx.Manifests) != 2 {
		t.Fatalf("index has %d entries, not 2", len(idx.Manifests))
	}
	var im [2]v1.Manifest
	var config [2]v1.ConfigFile
	for i, d := range idx.Manifests {
		if d.Platform == nil || d.Platform.OS != "linux" || d.Platform.Architecture != "amd64" {
			t.Errorf("entry %d: platform %v", i, d.Platform)
		}
		if d.ArtifactType != "" {
			t.Errorf("entry %d has an artifact type", i)
		}
		m, err := s.Manifest(ctx, d)
		if err != nil {
			t.Fatal(err)
		}
		if im[i], err = parseManifest(m); err != nil {
			t.Fatal(err)
		}
		raw, err := readAll(ctx, s, im[i].Config)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &config[i]); err != nil {
			t.Fatal(err)
		}
		if len(config[i].RootFS.DiffIDs) != len(im[i].Layers) {
			t.Errorf("entry %d: %d diff ids for %d layers", i, len(config[i].RootFS.DiffIDs), len(im[i].Layers))
		}
		last := im[i].Layers[len(im[i].Layers)-1]
		if last.Annotations[annBootstrap] != "true" || last.Annotations[annFSVersion] != "6" || last.MediaType != types.OCILayer {
			t.Errorf("entry %d: last layer is %v", i, last)
		}
		if c := config[i].Config; len(c.Cmd) != 1 || len(c.Env) != 1 {
			t.Errorf("entry %d: the source's config is lost: %v", i, c)
		}
	}
	boot, full := im[0], im[1]
	if idx.Manifests[0].Platform.OSFeatures != nil || !slices.Equal(idx.Manifests[1].Platform.OSFeatures, []string{osFeature}) {
		t.Errorf("os.features are %v and %v", idx.Manifests[0].Platform.OSFeatures, idx.Manifests[1].Platform.OSFeatures)
	}
	if len(boot.Layers) != 1 || boot.Layers[0].Digest != full.Layers[len(full.Layers)-1].Digest {
		t.Errorf("the first entry's layers are %v", boot.Layers)
	}
	if len(config[0].History) != 1 || config[0].History[0].CreatedBy != HistoryBy || config[0].History[0].Comment != HistoryNote {
		t.Errorf("the first entry's history is %v", config[0].History)
	}
	if n := len(config[1].History); n != 4 || config[1].History[0].CreatedBy != "layer 0" {
		t.Errorf("the second entry's history is %v", config[1].History)
	}
	for i, l := range full.Layers[:3] {
		if l.MediaType != mediaBlob || l.Annotations[annBlob] != "true" || config[1].RootFS.DiffIDs[i] != l.Digest {
			t.Errorf("layer %d is %v with diff id %s", i, l, config[1].RootFS.DiffIDs[i])
		}
	}
}

func TestBootstrapLayerOrder(t *testing.T) {
	host := testRegistry(t, nil)
	name := host + "/a/b:lazy"
	convertTo(t, goldenLayout(t, "src"), name, Options{})
	ctx := context.Background()
	_, s := open(t, name)
	im, err := OpenImage(ctx, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := im.BootstrapLayer()
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "layer.tar.gz")
	if err := fill(file, r); err != nil {
		t.Fatal(err)
	}
	var want []string
	want = append(want, "image", "image/image.boot")
	for _, l := range im.Spec.Layers[:3] {
		want = append(want, "image/"+l.Digest.Hex+metaSuffix)
	}
	want = append(want, originName)
	if got := strings.Fields(tool(t, "tar", "tzf", file)); !slices.Equal(got, want) {
		t.Errorf("the layer holds %v, not %v", got, want)
	}
	u, err := UnpackBootstrap(ctx, s, d, dir)
	if err != nil {
		t.Fatal(err)
	}
	if u.Origin != host+"/a/b" {
		t.Errorf("origin is %q", u.Origin)
	}
}

// TestBootstrapInKernelFormat has another program read what was merged.
func TestBootstrapInKernelFormat(t *testing.T) {
	name := "oci:" + t.TempDir() + "/x:lazy"
	convertTo(t, goldenLayout(t, "src"), name, Options{})
	ctx := context.Background()
	_, s := open(t, name)
	im, err := OpenImage(ctx, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := im.Open(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	raw, err := os.ReadFile(o.Unpacked.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	image := &formattest.Image{Bytes: raw, Bootstrap: o.Bootstrap, Blobs: map[string][]byte{}}
	for _, d := range im.Spec.Layers[:3] {
		if image.Blobs[d.Digest.Hex], err = readAll(ctx, s, d); err != nil {
			t.Fatal(err)
		}
	}
	image.CheckWithFsck(t)
	image.CheckWithNydusImage(t)
}

func TestConvertRegistry(t *testing.T) {
	host := testRegistry(t, nil)
	src, dst := host+"/src:1", host+"/app:1-nydus"
	_, s := open(t, goldenLayout(t, "src"))
	sink, err := OpenSink(context.Background(), parse(t, src), IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(context.Background(), s, sink, "1", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	first := convertTo(t, src, dst, Options{})
	mustCheck(t, dst)
	mustCheck(t, dst+"-boot")
	mustList(t, dst)
	mustList(t, dst+"-boot") // finds its data in the same repository
	again := convertTo(t, src, dst, Options{})
	if again.Digest != first.Digest || slices.Contains(hows(again), PhaseDone) {
		t.Errorf("second run: %s with layers %v, first %s", again.Digest, hows(again), first.Digest)
	}
	direct := convertTo(t, goldenLayout(t, "src"), host+"/app:other", Options{})
	if direct.Digest != first.Digest {
		t.Errorf("from the layout: %s, from the registry: %s", direct.Digest, first.Digest)
	}
}

func TestIndexModes(t *testing.T) {
	src := goldenLayout(t, "src")
	dir := t.TempDir()
	none := convertTo(t, src, "oci:"+dir+"/x:none", Options{Index: IndexNone})
	if none.Digest != none.Platforms[0].Full {
		t.Errorf("none: the tag names %s, not the full manifest %s", none.Digest, none.Platforms[0].Full)
	}
	mustList(t, "oci:"+dir+"/x:none")
	convertTo(t, src, "oci:"+dir+"/x:merged", Options{Index: IndexMerged})
	_, s := open(t, "oci:"+dir+"/x:merged")
	root, err := s.Manifest(context.Background(), v1.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	idx, err := parseIndex(root)
	if err != nil {
		t.Fatal(err)
	}
	_, golden := open(t, src)
	ordinary, err := golden.Manifest(context.Background(), v1.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	if len(idx.Manifests) != 3 || idx.Manifests[2].Digest != ordinary.Digest {
		t.Fatalf("merged: entries are %v", idx.Manifests)
	}
	if !slices.Equal(idx.Manifests[0].Platform.OSFeatures, []string{osFeature}) || idx.Manifests[2].Platform.OSFeatures != nil {
		t.Errorf("merged: os.features are %v, %v", idx.Manifests[0].Platform.OSFeatures, idx.Manifests[2].Platform.OSFeatures)
	}
	mustCheck(t, "oci:"+dir+"/x")
}

func TestAlreadyNydus(t *testing.T) {
	name := "oci:" + t.TempDir() + "/x:same"
	var notes []string
	res := convertTo(t, goldenLayout(t, "v6-zstd"), name, Options{Progress: func(e Event) {
		if e.Phase == PhaseNote {
			notes = append(notes, e.Text)
		}
	}})
	_, s := open(t, goldenLayout(t, "v6-zstd"))
	root, err := s.Manifest(context.Background(), v1.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	if !res.Already || res.Digest != root.Digest || len(notes) != 1 {
		t.Errorf("result %v with notes %q, source is %s", res, notes, root.Digest)
	}
	mustList(t, name)
}

func TestArchives(t *testing.T) {
	dir := t.TempDir()
	layout := goldenLayout(t, "src")
	docker, oci := filepath.Join(dir, "d.tar"), filepath.Join(dir, "o.tar")
	tool(t, "skopeo", "--insecure-policy", "copy", "-q", layout, "docker-archive:"+docker+":app:1")
	tool(t, "skopeo", "--insecure-policy", "copy", "-q", layout, "oci-archive:"+oci+":src")
	for name, src := range map[string]string{"docker": "docker-archive:" + docker + ":app:1", "docker-one": "docker-archive:" + docker, "oci": "oci-archive:" + oci + ":src"} {
		target := "oci:" + dir + "/x:" + name
		convertTo(t, src, target, Options{})
		mustCheck(t, target)
		mustList(t, target)
	}
	packed := "oci-archive:" + dir + "/out.tar:lazy"
	first := convertTo(t, layout, packed, Options{})
	mustCheck(t, packed)
	mustCheck(t, "oci-archive:"+dir+"/out.tar")
	mustList(t, packed)
	before, err := os.ReadFile(filepath.Join(dir, "out.tar"))
	if err != nil {
		t.Fatal(err)
	}
	again := convertTo(t, layout, packed, Options{})
	after, err := os.ReadFile(filepath.Join(dir, "out.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != first.Digest || !bytes.Equal(before, after) {
		t.Errorf("the second archive differs from the first")
	}
	if _, err := OpenSource(context.Background(), parse(t, "docker-archive:"+docker+":other:1"), IOOptions{}); err == nil {
		t.Error("an image that the archive does not hold was found")
	}
}

// TestCopyKeepsDigest copies by skopeo and by us, there and back.
func TestCopyKeepsDigest(t *testing.T) {
	host := testRegistry(t, nil)
	a := host + "/a:lazy"
	dir := t.TempDir()
	docker := "docker-archive:" + filepath.Join(dir, "d.tar") // its manifest has Docker's media types
	tool(t, "skopeo", "--insecure-policy", "copy", "-q", goldenLayout(t, "src"), docker+":app:1")
	res := convertTo(t, docker, a, Options{})
	tool(t, "skopeo", "--insecure-policy", "copy", "-q", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+a, "docker://"+host+"/b:lazy")
	for from, to := range map[string]string{host + "/b:lazy": "oci:" + dir + "/x:lazy", a: host + "/c:lazy"} {
		_, s := open(t, from)
		ref := parse(t, to)
		sink, err := OpenSink(context.Background(), ref, IOOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Copy(context.Background(), s, sink, ref.Tag, CopyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != res.Digest {
			t.Errorf("%s to %s: %s, not %s", from, to, got.Digest, res.Digest)
		}
		mustCheck(t, to)
		mustList(t, to)
		for _, child := range []string{"-boot", "-data"} {
			mustCheck(t, to+child)
		}
	}
}
