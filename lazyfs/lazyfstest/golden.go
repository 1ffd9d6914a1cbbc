// SPDX-License-Identifier: Apache-2.0

package lazyfstest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Image is what opening an image takes, and what it must read as.
type Image struct {
	Bootstrap string // path
	Digest    string // "sha256:…" of the bootstrap
	MetaDir   string // has .blob.meta files, or ""
	Blobs     *Blobs
	Files     map[string]File // regular files by path without leading "/"
}

// File is a regular file as it must be.
type File struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// DirImages are the golden images made from a directory, OCIImages those made
// from an OCI image, by the names that Golden takes.
var (
	DirImages = []string{"dir-v6-zstd", "dir-v6-lz4_block", "dir-v6-batch", "dir-v5-zstd", "dir-v5-lz4_block"}
	OCIImages = []string{"v6-zstd", "v6-lz4_block", "v6-none", "v6-ociref"}
)

// goldenDir is where the golden images lie: $LIGHTER_GOLDEN, or the directory
// beside the repository.
func goldenDir(tb testing.TB) string {
	if dir := os.Getenv("LIGHTER_GOLDEN"); dir != "" {
		return dir
	}
	wd, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "..", "shared", "golden")
		}
		if dir == filepath.Dir(dir) {
			tb.Fatalf("no go.mod above %s, and LIGHTER_GOLDEN is not set", wd)
		}
	}
}

// Golden returns a golden image by name, its bootstrap copied to a temporary
// directory. The test fails if there is none.
func Golden(tb testing.TB, name string) *Image {
	tb.Helper()
	root := goldenDir(tb)
	if strings.HasPrefix(name, "dir-") {
		return goldenFromDir(tb, root, name)
	}
	return goldenFromOCI(tb, root, name)
}

func goldenFromDir(tb testing.TB, root, name string) *Image {
	tb.Helper()
	entries, err := os.ReadDir(filepath.Join(root, name))
	if err != nil {
		tb.Fatal(err)
	}
	blobs := map[string][]byte{}
	for _, e := range entries {
		if e.Name() != "bootstrap" {
			blobs[e.Name()] = mustRead(tb, filepath.Join(root, name, e.Name()))
		}
	}
	im := newImage(tb, mustRead(tb, filepath.Join(root, name, "bootstrap")))
	im.Blobs, im.Files = NewBlobs(blobs), listing(tb, filepath.Join(root, "dir.jsonl"))
	return im
}

func newImage(tb testing.TB, bootstrap []byte) *Image {
	tb.Helper()
	im := &Image{Bootstrap: filepath.Join(tb.TempDir(), "image.boot"), Digest: Digest(bootstrap)}
	if err := os.WriteFile(im.Bootstrap, bootstrap, 0o600); err != nil {
		tb.Fatal(err)
	}
	return im
}

// Digest is "sha256:" and the hex digest of p.
func Digest(p []byte) string {
	sum := sha256.Sum256(p)
	return "sha256:" + hex.EncodeToString(sum[:])
}

type descriptor struct {
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations"`
}

func goldenFromOCI(tb testing.TB, root, tag string) *Image {
	tb.Helper()
	dir := filepath.Join(root, "oci")
	blobPath := func(digest string) string {
		return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
	}
	var index struct {
		Manifests []descriptor `json:"manifests"`
	}
	var manifest struct {
		Layers []descriptor `json:"layers"`
	}
	unmarshal(tb, filepath.Join(dir, "index.json"), &index)
	for _, d := range index.Manifests {
		if d.Annotations["org.opencontainers.image.ref.name"] == tag {
			unmarshal(tb, blobPath(d.Digest), &manifest)
		}
	}
	var im *Image
	for _, l := range manifest.Layers {
		if l.Annotations["containerd.io/snapshot/nydus-bootstrap"] != "" {
			im = fromBootstrapLayer(tb, blobPath(l.Digest))
		}
	}
	if im == nil {
		tb.Fatalf("golden image %s has no bootstrap layer", tag)
	}
	im.Blobs = NewBlobs(nil)
	entries, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		im.Blobs.Put(e.Name(), mustRead(tb, blobPath(e.Name())))
	}
	im.Files = listing(tb, filepath.Join(root, "oci.jsonl"))
	return im
}

func fromBootstrapLayer(tb testing.TB, path string) *Image {
	tb.Helper()
	z, err := gzip.NewReader(bytes.NewReader(mustRead(tb, path)))
	if err != nil {
		tb.Fatal(err)
	}
	var im *Image
	metaDir := tb.TempDir()
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			tb.Fatal(err)
		}
		p, err := io.ReadAll(tr)
		if err != nil {
			tb.Fatal(err)
		}
		switch name := filepath.Base(h.Name); {
		case name == "image.boot":
			im = newImage(tb, p)
		case strings.HasSuffix(name, ".blob.meta"):
			if err := os.WriteFile(filepath.Join(metaDir, name), p, 0o600); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if im == nil {
		tb.Fatalf("%s: no image.boot", path)
	}
	im.MetaDir = metaDir
	return im
}

func mustRead(tb testing.TB, path string) []byte {
	tb.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		tb.Fatalf("golden images are needed: %v", err)
	}
	return p
}

func unmarshal(tb testing.TB, path string, v any) {
	tb.Helper()
	if err := json.Unmarshal(mustRead(tb, path), v); err != nil {
		tb.Fatal(fmt.Errorf("%s: %w", path, err))
	}
}

// listing reads the regular files of a .jsonl listing.
func listing(tb testing.TB, path string) map[string]File {
	tb.Helper()
	files := map[string]File{}
	for d := json.NewDecoder(bytes.NewReader(mustRead(tb, path))); ; {
		var e struct {
			Path, Type string
			File
		}
		if err := d.Decode(&e); err == io.EOF {
			return files
		} else if err != nil {
			tb.Fatal(fmt.Errorf("%s: %w", path, err))
		}
		if e.Type == "f" {
			files[e.Path] = e.File
		}
	}
}
