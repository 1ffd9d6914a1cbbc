// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
	"lighter/format/formattest"
)

// TestCompareTrees changes one thing of a tree at a time.
func TestCompareTrees(t *testing.T) {
	base := []formattest.File{formattest.Dir("d"), {Name: "d/f", Content: "content", Xattrs: map[string]string{"user.x": "1"}}, formattest.Symlink("l", "t"),
		{Name: "n", Type: '3', Dev: [2]int64{1, 3}}, {Name: "h1", Content: "h"}, formattest.Hardlink("h2", "h1"), {Name: "big", Content: strings.Repeat("x", 10000)}}
	for _, c := range []struct {
		layer []formattest.File
		want  string
	}{
		{nil, ""},
		{[]formattest.File{{Name: "d/f", Content: "contenT", Xattrs: map[string]string{"user.x": "1"}}}, "/d/f changed content"},
		{[]formattest.File{{Name: "d/f", Content: "shorter"[:3], Xattrs: map[string]string{"user.x": "1"}}}, "/d/f changed size"},
		{[]formattest.File{{Name: "d/f", Content: "content", Mode: 0o600, UID: 5, Xattrs: map[string]string{"user.x": "2"}}}, "/d/f changed mode owner xattrs"},
		{[]formattest.File{{Name: "l", Type: '2', Link: "u"}}, "/l changed target"},
		{[]formattest.File{{Name: "n", Type: '3', Dev: [2]int64{1, 4}}}, "/n changed device"},
		{[]formattest.File{{Name: "n"}}, "/n changed type"},
		{[]formattest.File{{Name: ".wh.d"}}, "/d removed|/d/f removed"},
		{[]formattest.File{{Name: "e/f"}}, "/e added|/e/f added"},
		{[]formattest.File{{Name: "h2", Content: "h"}}, "/h1 changed links|/h2 changed links"},
		{[]formattest.File{{Name: "big", Content: strings.Repeat("x", 9999) + "y"}}, "/big changed content"},
	} {
		layers := [][]formattest.File{base}
		if c.layer != nil {
			layers = append(layers, c.layer)
		}
		a := buildTree(t, format.BuildOptions{}, base)
		for _, o := range []format.BuildOptions{{}, {ChunkSize: 4096}, {Digester: format.SHA256}} {
			b := buildTree(t, o, layers...)
			if got := differences(t, a, b); got != c.want {
				t.Errorf("%q, want %q (%+v)", got, c.want, o)
			}
		}
	}
	a, b := buildTree(t, format.BuildOptions{}, base), buildTree(t, format.BuildOptions{}, base, []formattest.File{{Name: "new"}})
	stop := errors.New("stop")
	if err := CompareTrees(t.Context(), a, b, func(Difference) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	b = buildTree(t, format.BuildOptions{ChunkSize: 4096}, base)
	b.Open = nil
	if err := CompareTrees(t.Context(), a, b, func(Difference) error { return nil }); err == nil || !strings.Contains(err.Error(), "cannot be compared") {
		t.Errorf("without data: %v", err)
	}
}

func buildTree(t *testing.T, o format.BuildOptions, layers ...[]formattest.File) Tree {
	t.Helper()
	var in []io.Reader
	for _, l := range layers {
		in = append(in, bytes.NewReader(formattest.Tar(t, l...)))
	}
	im, err := formattest.Build(in, o)
	if err != nil {
		t.Fatal(err)
	}
	return Tree{im.Bootstrap, im.Open}
}

func differences(t *testing.T, a, b Tree) string {
	t.Helper()
	var out []string
	err := CompareTrees(t.Context(), a, b, func(d Difference) error {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", d.Path, d.Change, strings.Join(d.What, " "))))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, "|")
}

// TestCheckAgainst compares images with the one that they were made of, and
// with one that they were not.
func TestCheckAgainst(t *testing.T) {
	layout := "oci:" + t.TempDir() + "/x:"
	for name, o := range map[string]Options{
		"default": {}, "sha256": {Build: format.BuildOptions{Digester: format.SHA256, ChunkSize: 1 << 16}}, "none": {Index: IndexNone},
	} {
		convertTo(t, goldenLayout(t, "src"), layout+name, o)
		if p := against(t, layout+name, goldenLayout(t, "src")); len(p) > 0 {
			t.Errorf("%s: %q", name, p)
		}
	}
	for _, tag := range []string{"v6-zstd", "v6-ociref"} { // the reference builder leaves out sub-seconds
		if p := against(t, goldenLayout(t, tag), goldenLayout(t, "src")); len(p) != 1 || p[0] != "/bin/su2: changed (mtime)" {
			t.Errorf("%s: %q", tag, p)
		}
	}
	other := changedImage(t)
	all := strings.Join(against(t, layout+"default", other), "\n")
	for _, want := range []string{"manifest: was made of", "manifest: blobs were made of", `config: "architecture" differs`, "/added: removed"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not among the problems:\n%.500s", want, all)
		}
	}
}

func against(t *testing.T, name, source string) []string {
	t.Helper()
	im, _ := ordinary(t, name)
	src, _ := ordinary(t, source)
	a, problems, err := CheckAgainst(context.Background(), im, src, t.TempDir())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if a.Entries == 0 {
		t.Errorf("%s: nothing was compared", name)
	}
	return problems
}

// changedImage is the golden image, exported, with one more file, for another
// architecture.
func changedImage(t *testing.T) string {
	t.Helper()
	_, config := ordinary(t, goldenLayout(t, "src"))
	layer := formattest.Tar(t, formattest.File{Name: "added", Content: "x"})
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs[:0], hashOf(layer))
	config.Architecture, config.History = "riscv64", nil
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := "oci:" + t.TempDir() + "/other:1"
	ref := parse(t, dir)
	sink, err := OpenSink(t.Context(), ref, IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	conf, tar := newBlob(raw, mediaConfig), newBlob(layer, "application/vnd.oci.image.layer.v1.tar")
	m := manifestOf(t, conf, tar)
	for _, b := range []blob{conf, tar} {
		if _, err := sink.Put(t.Context(), b.desc, b.open); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(sink.PutManifest(t.Context(), m, ref.Tag), sink.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	return dir
}

func manifestOf(t *testing.T, config blob, layers ...blob) Manifest {
	t.Helper()
	man := v1.Manifest{SchemaVersion: 2, MediaType: mediaManifest, Config: config.desc}
	for _, l := range layers {
		man.Layers = append(man.Layers, l.desc)
	}
	raw, err := json.Marshal(man)
	if err != nil {
		t.Fatal(err)
	}
	return NewManifest(raw, mediaManifest)
}
