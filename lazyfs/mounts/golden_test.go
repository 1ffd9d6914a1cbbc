// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/lazyfs/mounts"
)

// goldenSpec returns how to mount the golden image of that name: a directory,
// or a tag of the OCI layout.
func goldenSpec(t *testing.T, name string) mounts.Spec {
	t.Helper()
	if tag, ok := strings.CutPrefix(name, "oci:"); ok {
		return ociSpec(t, tag)
	}
	dir := golden(t, name)
	return mounts.Spec{Bootstrap: filepath.Join(dir, "bootstrap"), BlobDirs: []string{dir}, Probe: true}
}

// ociSpec unpacks the bootstrap layer, the last one, of an image.
func ociSpec(t *testing.T, tag string) mounts.Spec {
	t.Helper()
	layout := golden(t, "oci")
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	readJSON(t, filepath.Join(layout, "index.json"), &index)
	var manifest struct{ Layers []struct{ Digest string } }
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] == tag {
			readJSON(t, blobPath(layout, m.Digest), &manifest)
		}
	}
	if len(manifest.Layers) == 0 {
		t.Fatalf("no image %s in %s", tag, layout)
	}
	f, err := os.Open(blobPath(layout, manifest.Layers[len(manifest.Layers)-1].Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(h.Name)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return mounts.Spec{Bootstrap: filepath.Join(dir, "image.boot"), MetaDir: dir, BlobDirs: []string{layout}, Probe: true}
}

func blobPath(layout, digest string) string {
	return filepath.Join(layout, "blobs", strings.ReplaceAll(digest, ":", "/"))
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// wantListing compares a tree with a golden listing. The root's mtime is the
// builder's choice.
func wantListing(t *testing.T, dir, want string) {
	t.Helper()
	b, err := os.ReadFile(golden(t, want))
	if err != nil {
		t.Fatal(err)
	}
	wantLines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	got := listing(t, dir)
	bad := 0
	for i := range max(len(got), len(wantLines)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if g == w || i == 0 && dropMtime(t, g) == dropMtime(t, w) {
			continue
		}
		if bad++; bad <= 5 {
			t.Errorf("%s, line %d:\n got %s\nwant %s", want, i+1, g, w)
		}
	}
	if bad > 5 {
		t.Errorf("%d lines differ", bad)
	}
}

func dropMtime(t *testing.T, line string) string {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("listing %q: %v", line, err)
	}
	delete(e, "mtime")
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestGoldenImages(t *testing.T) {
	for name, want := range map[string]string{
		"dir-v6-zstd":      "dir.jsonl",
		"dir-v6-lz4_block": "dir.jsonl",
		"dir-v6-batch":     "dir.jsonl",
		"dir-v5-zstd":      "dir.jsonl",
		"dir-v5-lz4_block": "dir.jsonl",
		"oci:v6-zstd":      "oci.jsonl",
		"oci:v6-lz4_block": "oci.jsonl",
		"oci:v6-none":      "oci.jsonl",
		"oci:v6-ociref":    "oci.jsonl",
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, t.TempDir())
			dir := s.mount(t, "golden", goldenSpec(t, name))
			wantListing(t, dir, want)
			wantListing(t, dir, want) // from the kernel's caches
		})
	}
}
