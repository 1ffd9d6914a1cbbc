// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Golden returns the directory of the golden images: $LIGHTER_GOLDEN, or
// ../shared/golden beside the module. It fails the test without them.
func Golden(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("LIGHTER_GOLDEN")
	if dir == "" {
		_, file, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(file), "../../../shared/golden")
	}
	if _, err := os.Stat(filepath.Join(dir, "oci.jsonl")); err != nil {
		t.Fatalf("golden images: %v (set LIGHTER_GOLDEN)", err)
	}
	return dir
}

// GoldenBlob is a layer as it lies in the golden OCI layout.
type GoldenBlob struct {
	ID    string // SHA-256, hex
	Bytes []byte
}

// goldenLayers reads the layers of an image, the lowest first.
func goldenLayers(t testing.TB, tag string) []GoldenBlob {
	t.Helper()
	dir := filepath.Join(Golden(t), "oci")
	type descriptor struct {
		Digest      string            `json:"digest"`
		Annotations map[string]string `json:"annotations"`
	}
	var index struct{ Manifests []descriptor }
	readJSON(t, filepath.Join(dir, "index.json"), &index)
	id := func(d descriptor) string { return strings.TrimPrefix(d.Digest, "sha256:") }
	var out []GoldenBlob
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		var manifest struct{ Layers []descriptor }
		readJSON(t, filepath.Join(dir, "blobs/sha256", id(m)), &manifest)
		for _, l := range manifest.Layers {
			p, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", id(l)))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, GoldenBlob{ID: id(l), Bytes: p})
		}
	}
	if len(out) == 0 {
		t.Fatalf("no golden image %q with layers", tag)
	}
	return out
}

// GoldenBlobs returns the layers of a Nydus image of the golden OCI layout
// without its bootstrap layer, the lowest first.
func GoldenBlobs(t testing.TB, tag string) []GoldenBlob {
	t.Helper()
	all := goldenLayers(t, tag)
	return all[:len(all)-1]
}

// GoldenLayers opens the layers of an image of the golden OCI layout,
// uncompressed if they were gzipped, the lowest first.
func GoldenLayers(t testing.TB, tag string) []io.Reader {
	t.Helper()
	var out []io.Reader
	for _, l := range goldenLayers(t, tag) {
		out = append(out, gunzip(t, bytes.NewReader(l.Bytes)))
	}
	return out
}

// gunzip inflates what is compressed and passes through what is not.
func gunzip(t testing.TB, r io.Reader) io.Reader {
	t.Helper()
	b := bufio.NewReader(r)
	if head, err := b.Peek(2); err != nil || string(head) != "\x1f\x8b" {
		return b
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(p, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}
