// SPDX-License-Identifier: Apache-2.0

package format

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// goldenDir is where the images of the reference builder are.
func goldenDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("LIGHTER_GOLDEN")
	if dir == "" {
		dir = "../../shared/golden"
	}
	if _, err := os.Stat(filepath.Join(dir, "dir.jsonl")); err != nil {
		t.Fatalf("the golden images are missing (set LIGHTER_GOLDEN): %v", err)
	}
	return dir
}

// goldenImage is one image of the reference builder.
type goldenImage struct {
	name    string
	boot    []byte
	blobs   string            // directory of the blobs, named by hex id
	meta    map[string][]byte // *.blob.meta by hex id
	layers  []string          // hex ids of the layer blobs of an OCI image
	listing string            // path of the expected listing
}

func (g *goldenImage) open(bl Blob) (io.ReaderAt, int64, error) {
	f, err := os.Open(filepath.Join(g.blobs, bl.ID))
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	return f, st.Size(), err
}

// goldenImages returns the images: of one directory each, and the tags of the
// OCI layout.
func goldenImages(t testing.TB) []*goldenImage {
	t.Helper()
	dir := goldenDir(t)
	var all []*goldenImage
	for _, name := range []string{"dir-v6-zstd", "dir-v6-lz4_block", "dir-v6-batch", "dir-v5-zstd", "dir-v5-lz4_block"} {
		boot, err := os.ReadFile(filepath.Join(dir, name, "bootstrap"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &goldenImage{name: name, boot: boot, blobs: filepath.Join(dir, name), listing: filepath.Join(dir, "dir.jsonl")})
	}
	for _, tag := range []string{"v6-zstd", "v6-lz4_block", "v6-none", "v6-ociref"} {
		all = append(all, goldenTag(t, tag))
	}
	return all
}

type ociDescriptor struct {
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations"`
}

func goldenTag(t testing.TB, tag string) *goldenImage {
	t.Helper()
	dir := goldenDir(t)
	g := &goldenImage{name: "oci-" + tag, blobs: filepath.Join(dir, "oci/blobs/sha256"), meta: map[string][]byte{}, listing: filepath.Join(dir, "oci.jsonl")}
	var index struct{ Manifests []ociDescriptor }
	readJSON(t, filepath.Join(dir, "oci/index.json"), &index)
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		var manifest struct{ Layers []ociDescriptor }
		readJSON(t, filepath.Join(g.blobs, strings.TrimPrefix(m.Digest, "sha256:")), &manifest)
		n := len(manifest.Layers) - 1
		for _, l := range manifest.Layers[:n] {
			g.layers = append(g.layers, strings.TrimPrefix(l.Digest, "sha256:"))
		}
		g.unpack(t, filepath.Join(g.blobs, strings.TrimPrefix(manifest.Layers[n].Digest, "sha256:")))
		return g
	}
	t.Fatalf("no tag %s", tag)
	return nil
}

// unpack takes bootstrap and chunk tables from the bootstrap layer.
func (g *goldenImage) unpack(t testing.TB, path string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(h.Name)
		if base == "image.boot" {
			g.boot = p
		}
		if id, ok := strings.CutSuffix(base, ".blob.meta"); ok {
			g.meta[id] = p
		}
	}
	if g.boot == nil {
		t.Fatalf("%s has no image.boot", path)
	}
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(p, v); err != nil {
		t.Fatal(err)
	}
}

// listed is one line of a listing.
type listed struct {
	Path   string            `json:"path"`
	Type   string            `json:"type"`
	Mode   string            `json:"mode"`
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   *int64            `json:"size"`
	Nlink  *uint32           `json:"nlink"`
	Mtime  *int64            `json:"mtime"`
	SHA256 string            `json:"sha256"`
	Link   *string           `json:"link"`
	Rdev   string            `json:"rdev"`
	Xattrs map[string]string `json:"xattrs"`
}

func readListing(t testing.TB, path string) []listed {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(p)); ; {
		var e listed
		if err := d.Decode(&e); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	if len(all) < 100 {
		t.Fatalf("only %d entries in %s", len(all), path)
	}
	return all
}

func (e listed) String() string {
	p, err := json.Marshal(e)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(p)
}

func TestGoldenListing(t *testing.T) {
	for _, g := range goldenImages(t) {
		t.Run(g.name, func(t *testing.T) {
			b, err := OpenBytes(g.boot)
			if err != nil {
				t.Fatal(err)
			}
			compareListing(t, b, g.open, readListing(t, g.listing))
		})
	}
}

// TestGoldenReaderAt reads through io.ReaderAt rather than in place.
func TestGoldenReaderAt(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	b, err := Open(bytes.NewReader(g.boot), int64(len(g.boot)))
	if err != nil {
		t.Fatal(err)
	}
	compareListing(t, b, g.open, readListing(t, g.listing))
}
