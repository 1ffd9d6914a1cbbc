// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// goldenLayers returns the uncompressed layers of a golden OCI image.
func goldenLayers(t testing.TB, tag string) [][]byte {
	t.Helper()
	blob := func(digest string) []byte {
		return goldenFile(t, filepath.Join("oci/blobs/sha256", strings.TrimPrefix(digest, "sha256:")))
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	must(t, json.Unmarshal(goldenFile(t, "oci/index.json"), &index))
	for _, m := range index.Manifests {
		if m.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		var manifest struct {
			Layers []struct{ MediaType, Digest string }
		}
		must(t, json.Unmarshal(blob(m.Digest), &manifest))
		var out [][]byte
		for _, l := range manifest.Layers {
			data := blob(l.Digest)
			if strings.HasSuffix(l.MediaType, "gzip") {
				z, err := gzip.NewReader(bytes.NewReader(data))
				must(t, err)
				data, err = io.ReadAll(z)
				must(t, err)
			}
			out = append(out, data)
		}
		return out
	}
	t.Fatalf("no golden image %q", tag)
	return nil
}

// applyImage makes layers of an image, and returns their ids, lowest first.
func (e *env) applyImage(prefix string, layers [][]byte) []string {
	e.t.Helper()
	var ids []string
	parent := ""
	for i, data := range layers {
		id := fmt.Sprintf("%s%d", prefix, i)
		e.layer(id, parent, data)
		ids = append(ids, id)
		parent = id
	}
	return ids
}

func (e *env) kindOf(id string) kind {
	e.d.mu.Lock()
	defer e.d.mu.Unlock()
	if l := e.d.layers[id]; l != nil && l.record != nil {
		return l.Kind
	}
	return ""
}

// Each golden image, as it is listed in a full manifest, becomes a chain of the right kinds, and comes back exactly.
func TestGoldenKinds(t *testing.T) {
	for _, tag := range []string{"src", "v6-zstd", "v6-lz4_block", "v6-none", "v6-ociref"} {
		t.Run(tag, func(t *testing.T) {
			e := newEnv(t)
			layers := goldenLayers(t, tag)
			ids := e.applyImage("g", layers)
			for i, id := range ids {
				want := kindBlob
				switch {
				case tag == "src":
					want = kindTar
				case i == len(ids)-1:
					want = kindBootstrap
				}
				if got := e.kindOf(id); got != want {
					t.Errorf("layer %d is %q, want %q", i, got, want)
				}
				parent := ""
				if i > 0 {
					parent = ids[i-1]
				}
				if !bytes.Equal(e.diff(id, parent), layers[i]) {
					t.Errorf("layer %d does not come back", i)
				}
				size, err := e.d.DiffSize(id, parent)
				if err != nil || want != kindTar && size != int64(len(layers[i])) {
					t.Errorf("layer %d: diff size %d, %v", i, size, err)
				}
			}
			if tag == "src" {
				return
			}
			top := ids[len(ids)-1]
			dir, err := e.d.Get(top, "")
			must(t, err)
			if data, err := os.ReadFile(filepath.Join(dir, "etc/hostname")); string(data) != "lazy\n" {
				t.Errorf("read %q, %v", data, err)
			}
			spec := e.m.specs[top]
			if len(spec.BlobDirs) != 1 {
				t.Fatalf("blob directories %v", spec.BlobDirs)
			}
			for i, data := range layers[:len(layers)-1] {
				if d, err := fileDigest(filepath.Join(spec.BlobDirs[0], sum(data)[7:])); err != nil || d != sum(data) {
					t.Errorf("blob %d: %s, %v", i, d, err)
				}
			}
			must(t, e.d.Put(top))
			for i := len(ids) - 1; i >= 0; i-- {
				must(t, e.d.Remove(ids[i]))
			}
			for _, dir := range []string{"layers", "blobs"} {
				if left := must2(os.ReadDir(filepath.Join(e.d.root, dir))); len(left) > 0 {
					t.Errorf("%s is left in %s", left[0].Name(), dir)
				}
			}
		})
	}
}

func TestBootstrapKinds(t *testing.T) {
	boot := string(goldenFile(t, "dir-v6-zstd/bootstrap"))
	meta := strings.Repeat("a", 64) + ".blob.meta"
	for name, c := range map[string]struct {
		tar  []byte
		want kind
	}{
		"modern":         {bootstrapLayer(t), kindBootstrap},
		"legacy":         {makeTar(t, reg("image.boot", boot)), kindBootstrap},
		"v5":             {makeTar(t, reg("image/image.boot", string(goldenFile(t, "dir-v5-zstd/bootstrap")))), kindBootstrap},
		"no-directory":   {makeTar(t, reg("image/image.boot", boot)), kindBootstrap},
		"dot":            {makeTar(t, dir("./"), dir("./image"), reg("./image/image.boot", boot)), kindBootstrap},
		"meta-json":      {bootstrapLayer(t, reg("image/"+meta, "meta"), reg("image/prefetch.json", "[]")), kindBootstrap},
		"more":           {bootstrapLayer(t, reg("image/README", "hi")), kindTar},
		"elsewhere":      {bootstrapLayer(t, reg("etc/passwd", "root")), kindTar},
		"no-magic":       {makeTar(t, dir("image/"), reg("image/image.boot", strings.Repeat("x", 8192))), kindTar},
		"short":          {makeTar(t, dir("image/"), reg("image/image.boot", "x")), kindTar},
		"only-directory": {makeTar(t, dir("image/")), kindTar},
		"link":           {makeTar(t, dir("image/"), file{tar.Header{Name: "image/image.boot", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}, ""}), kindTar},
		"image-file":     {makeTar(t, reg("image", "a file")), kindTar},
		"json-first":     {makeTar(t, reg("image/a.json", "{}"), reg("image/b.txt", "{}")), kindTar},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.layer("lay", "", c.tar)
			if got := e.kindOf("lay"); got != c.want {
				t.Errorf("kind %q, want %q", got, c.want)
			}
			if !bytes.Equal(e.diff("lay", ""), c.tar) {
				t.Error("the diff is not what came")
			}
			if c.want == kindTar {
				for _, name := range []string{rawFile, bootstrapFile, metaDir} {
					if _, err := os.Lstat(filepath.Join(e.d.layerDir("lay"), name)); !os.IsNotExist(err) {
						t.Errorf("%s is left: %v", name, err)
					}
				}
			}
		})
	}
}

// A bootstrap that can't be mounted is refused when it is pulled, with a reason.
func TestUnusableBootstrap(t *testing.T) {
	boot := goldenFile(t, "dir-v6-zstd/bootstrap")
	e := newEnv(t)
	for name, data := range map[string][]byte{
		"truncated":    boot[:4096],
		"truncated-v5": goldenFile(t, "dir-v5-zstd/bootstrap")[:12288],
	} {
		must(t, e.d.Create(name, "", CreateOptions{}))
		_, err := e.d.ApplyDiff(name, "", bytes.NewReader(makeTar(t, dir("image/"), reg("image/image.boot", string(data)))))
		if err == nil || !strings.Contains(err.Error(), "image.boot") {
			t.Errorf("%s: %v", name, err)
		}
		must(t, e.d.Remove(name))
	}
}

// uncompressedBlob frames data as the converter does without compression: the first file's bytes come first.
func uncompressedBlob(data []byte) []byte {
	h := make([]byte, 512)
	copy(h, "image.boot")
	copy(h[124:], fmt.Sprintf("%011o", 0))
	copy(h[136:], fmt.Sprintf("%011o", 0))
	h[156] = '0'
	copy(h[257:], "ustar  \x00")
	total := 8 * int(' ')
	for i, c := range h {
		if i < 148 || i >= 156 {
			total += int(c)
		}
	}
	copy(h[148:], fmt.Sprintf("%07o\x00", total))
	return append(bytes.Clone(data), h...)
}

// A blob without compression may begin like anything; its end decides.
func TestBlobThatBeginsLikeATar(t *testing.T) {
	inner := makeTar(t, dir("etc/"), reg("etc/passwd", "root"), reg("etc/.wh.gone", "content"))
	for name, data := range map[string][]byte{
		"tar":           append(bytes.Clone(inner), bytes.Repeat([]byte("next file"), 300_000)...),
		"tar-exactly":   inner,
		"tar-broken":    append(bytes.Clone(inner[:len(inner)-1024]), bytes.Repeat([]byte("next file"), 300_000)...),
		"tar-in-entry":  bytes.Clone(inner[:700]),
		"tar-twice":     append(makeTar(t, reg("f", "one"), reg("f", "two"), reg("g", strings.Repeat("three", 99999))), "next"...),
		"zeros":         append(make([]byte, 100_000), "next file"...),
		"bootstrap-tar": append(bytes.Clone(bootstrapLayer(t)), "next file"...),
		"text":          []byte(strings.Repeat("text", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			blob := uncompressedBlob(data)
			if size := e.layer("b", "", blob); size != int64(len(blob)) {
				t.Errorf("size %d of %d", size, len(blob))
			}
			if got := e.kindOf("b"); got != kindBlob {
				t.Errorf("kind %q", got)
			}
			if !bytes.Equal(e.diff("b", ""), blob) {
				t.Error("the diff is not what came")
			}
			if left := must2(os.ReadDir(e.d.diffDir("b"))); len(left) > 0 {
				t.Errorf("%s is left in the layer", left[0].Name())
			}
			if d, err := fileDigest(filepath.Join(e.d.blobDir(), sum(blob)[7:])); err != nil || d != sum(blob) {
				t.Errorf("blob: %s, %v", d, err)
			}
		})
	}
}

// Two layers of one blob share it; it goes with the last.
func TestSharedBlob(t *testing.T) {
	e := newEnv(t)
	blob := uncompressedBlob([]byte(strings.Repeat("text", 1000)))
	path := filepath.Join(e.d.blobDir(), sum(blob)[7:])
	for _, id := range []string{"one", "two", "three"} {
		e.layer(id, "", blob)
	}
	// a damaged blob is healed by the next layer that brings it
	must(t, os.WriteFile(path, []byte("damage"), 0o600))
	e.layer("four", "", blob)
	if d, err := fileDigest(path); err != nil || d != sum(blob) {
		t.Errorf("damaged blob: %s, %v", d, err)
	}
	e.layer("five", "", blob)
	if a, b := must2(os.Stat(filepath.Join(e.d.layerDir("four"), rawFile))), must2(os.Stat(filepath.Join(e.d.layerDir("five"), rawFile))); !os.SameFile(a, b) {
		t.Error("the same blob is kept twice")
	}
	for _, id := range []string{"four", "three", "five", "one"} {
		must(t, e.d.Remove(id))
		if d, err := fileDigest(path); err != nil || d != sum(blob) {
			t.Errorf("after %s: %s, %v", id, d, err)
		}
	}
	must(t, e.d.Remove("two"))
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("blob is left: %v", err)
	}
}

func TestRepositories(t *testing.T) {
	e := newEnv(t)
	data := bootstrapLayer(t, reg("image/lighter.json", `{"version":1,"repository":"hint.example:5000/a/b"}`))
	e.layer("lazy", "", data)
	note := func(driver, content string, when time.Time) {
		dir := filepath.Join(e.image, driver, "distribution/v2metadata-by-diffid/sha256")
		must(t, os.MkdirAll(dir, 0o755))
		path := filepath.Join(dir, sum(data)[7:])
		must(t, os.WriteFile(path, []byte(content), 0o600))
		must(t, os.Chtimes(path, when, when))
	}
	ask := func() []string {
		_, err := e.d.Get("lazy", "")
		must(t, err)
		must(t, e.d.Put("lazy"))
		return e.m.specs["lazy"].Repositories
	}
	if got := fmt.Sprint(ask()); got != "[hint.example:5000/a/b]" {
		t.Errorf("without notes: %s", got)
	}
	now := time.Now()
	note("lighter:latest", `[{"Digest":"sha256:1","SourceRepository":"127.0.0.1:5000/old","HMAC":""},{"Digest":"sha256:1","SourceRepository":"docker.io/library/new","HMAC":""}]`, now)
	note("overlay2", `[{"SourceRepository":"quay.io/other"},{"SourceRepository":"docker.io/library/new"}]`, now.Add(-time.Hour))
	note("broken", `[{"SourceRepository":`, now)
	note("hostile", `[{"SourceRepository":"../../etc"},{"SourceRepository":"http://x/y"},{"SourceRepository":"a b/c"},{"SourceRepository":"h/r?q"}]`, now)
	if got := fmt.Sprint(ask()); got != "[docker.io/library/new 127.0.0.1:5000/old quay.io/other hint.example:5000/a/b]" {
		t.Errorf("got %s", got)
	}
}

func TestMountFails(t *testing.T) {
	e := newEnv(t)
	e.layer("lazy", "", bootstrapLayer(t))
	must(t, e.d.Create("child", "lazy", CreateOptions{}))
	e.m.fail = errors.New("registry does not have the blob")
	if _, err := e.d.Get("child", ""); err == nil || !strings.Contains(err.Error(), "does not have the blob") {
		t.Fatalf("got %v", err)
	}
	e.m.fail = nil
	_, err := e.d.Get("child", "")
	must(t, err)
	must(t, e.d.Put("child"))
	if mounted, _ := e.m.count(); mounted != 0 {
		t.Errorf("%d mounts are left", mounted)
	}
}
