// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format/formattest"
)

var goldenTags = []string{"src", "v6-zstd", "v6-lz4_block", "v6-none", "v6-ociref"}

func TestCheckGolden(t *testing.T) {
	for _, tag := range goldenTags {
		rep := mustCheck(t, goldenLayout(t, tag))
		if len(rep.Images) != 1 || rep.Blobs < 4 {
			t.Fatalf("%s: %d images, %d blobs", tag, len(rep.Images), rep.Blobs)
		}
		im := rep.Images[0]
		if tag == "src" && im.Kind != KindOrdinary || tag != "src" && (im.Kind != KindNydus || im.Inodes != 105 || im.Chunks != 32) {
			t.Errorf("%s: %+v", tag, im)
		}
	}
	if rep := mustCheck(t, strings.TrimSuffix(goldenLayout(t, ""), ":")); len(rep.Images) != len(goldenTags) {
		t.Errorf("the whole layout has %d images", len(rep.Images))
	}
}

// spoiled is a layout with one byte of one file changed.
type spoiled struct {
	tree
	name string
	off  int64
	flip byte
}

func (s spoiled) open(name string) (Blob, error) {
	b, err := s.tree.open(name)
	if err != nil || name != s.name {
		return b, err
	}
	return spoiledBlob{b, s}, nil
}

type spoiledBlob struct {
	Blob
	s spoiled
}

func (b spoiledBlob) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.Blob.ReadAt(p, off)
	if i := b.s.off - off; i >= 0 && i < int64(n) {
		p[i] ^= b.s.flip
	}
	return n, err
}

// refused says whether a check of the layout by any of the tags ("": whole)
// finds fault. Fault found without a look at the data needs none.
func refused(t *testing.T, tr tree, tags []string) bool {
	t.Helper()
	for _, metadata := range []bool{true, false} {
		for _, tag := range tags {
			l, err := openLayout(Reference{Kind: KindLayout, Path: "x", Tag: tag}, tr, nil)
			if err != nil || l.strict() != nil {
				return true
			}
			if _, err := l.root(); err != nil && tag != "" {
				return true
			}
		}
		for _, tag := range tags {
			l, err := openLayout(Reference{Kind: KindLayout, Path: "x", Tag: tag}, tr, nil)
			if err != nil {
				t.Fatal(err)
			}
			rep, err := Check(context.Background(), l, CheckOptions{MetadataOnly: metadata})
			if err != nil || len(rep.Problems) > 0 {
				return true
			}
		}
	}
	return false
}

// owners gives for each file of a layout the tags whose images need it.
func owners(t *testing.T, dir string, tags []string) map[string][]string {
	t.Helper()
	out := map[string][]string{"index.json": tags, "oci-layout": tags}
	for _, tag := range tags {
		_, s := open(t, "oci:"+dir+":"+tag)
		root, err := s.Manifest(context.Background(), v1.Descriptor{})
		if err != nil {
			t.Fatal(err)
		}
		im, err := parseManifest(root)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range append(im.Layers, im.Config, root.Descriptor()) {
			out[blobPath(d.Digest)] = []string{tag}
		}
	}
	return out
}

// TestFlippedByte changes one byte at a time, all over every file.
func TestFlippedByte(t *testing.T) {
	dir := filepath.Join(formattest.Golden(t), "oci")
	own := owners(t, dir, goldenTags)
	tried := 0
	for _, file := range files(t, dir) {
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		tags := own[rel]
		if tags == nil {
			t.Fatalf("%s belongs to no image", rel)
		}
		if refused(t, dirTree(dir), tags) {
			t.Fatalf("%v is refused as it is", tags)
		}
		step := max(1, st.Size()/8)
		if rel == "oci-layout" || rel == "index.json" {
			step = 1
		}
		for off := int64(0); off < st.Size(); off += step {
			flip := byte(1) << (off % 8)
			tried++
			if !refused(t, spoiled{dirTree(dir), rel, off, flip}, tags) {
				t.Errorf("%s: byte %d with bit %#x flipped passes", rel, off, flip)
			}
		}
	}
	t.Logf("%d flips", tried)
}

// cut is a layout with one file one byte shorter.
type cut struct {
	tree
	name string
}

func (c cut) open(name string) (Blob, error) {
	b, err := c.tree.open(name)
	if err != nil || name != c.name {
		return b, err
	}
	return sectionBlob{io.NewSectionReader(b, 0, b.Size()-1)}, nil
}

func TestShortFile(t *testing.T) {
	dir := filepath.Join(formattest.Golden(t), "oci")
	own := owners(t, dir, goldenTags)
	for _, file := range files(t, dir) {
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		if !refused(t, cut{dirTree(dir), rel}, own[rel]) {
			t.Errorf("%s without its last byte passes", rel)
		}
	}
}

func TestStrayFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	convertTo(t, goldenLayout(t, "src"), "oci:"+dir+":lazy", Options{})
	stray := filepath.Join(dir, "blobs", "sha256", strings.Repeat("0", 64))
	if err := os.WriteFile(stray, []byte("not what the name says"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !refused(t, dirTree(dir), []string{""}) {
		t.Error("a file that nothing lists, with a wrong name, passes")
	}
	if err := os.Rename(stray, filepath.Join(dir, "blobs", "sha256", ".tmp-1")); err != nil {
		t.Fatal(err)
	}
	if !refused(t, dirTree(dir), []string{""}) {
		t.Error("a file that is no blob passes")
	}
}

// TestWrongMeta ships the chunk table of another blob, with all digests right.
func TestWrongMeta(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "x")
	convertTo(t, goldenLayout(t, "src"), "oci:"+dir+":lazy", Options{})
	_, s := open(t, "oci:"+dir+":lazy")
	im, err := OpenImage(ctx, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := UnpackBootstrap(ctx, s, im.Spec.Layers[3], t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	layers := []*layer{{desc: im.Spec.Layers[0]}, {desc: im.Spec.Layers[1]}, {desc: im.Spec.Layers[2]}}
	for i, l := range layers {
		l.meta = u.Metas[layers[(i+1)%3].desc.Digest.Hex]
	}
	boot, err := packBootstrap(filepath.Join(t.TempDir(), "boot"), u.Bootstrap, layers, "")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := readAll(ctx, s, im.Spec.Config)
	if err != nil {
		t.Fatal(err)
	}
	config, err := parseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	config.history = config.history[:3]
	m, conf, err := fullManifest(config, layers, nil, boot, nil)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := OpenSink(ctx, parse(t, "oci:"+dir+":bad"), IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	_, err1 := sink.Put(ctx, boot.desc, func() (io.ReadCloser, error) { return os.Open(boot.file) })
	_, err2 := sink.Put(ctx, conf.desc, conf.open)
	if err := errors.Join(err1, err2, sink.PutManifest(ctx, m, "bad"), sink.Commit(ctx)); err != nil {
		t.Fatal(err)
	}
	if !refused(t, dirTree(dir), []string{"bad"}) {
		t.Error("chunk tables of other blobs pass")
	}
}

func TestMissingBlob(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	res := convertTo(t, goldenLayout(t, "src"), "oci:"+dir+":lazy", Options{})
	if err := os.Remove(filepath.Join(dir, "blobs", "sha256", res.Platforms[0].Layers[0].Blob.Hex)); err != nil {
		t.Fatal(err)
	}
	_, s := open(t, "oci:"+dir+":lazy-boot")
	rep, err := Check(context.Background(), s, CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Problems) == 0 || !strings.Contains(rep.Problems[0], "lighter copy") {
		t.Errorf("problems are %q, want one that names the cure", rep.Problems)
	}
}

func TestCheckCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, s := open(t, goldenLayout(t, "v6-zstd"))
	if _, err := Check(ctx, s, CheckOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
