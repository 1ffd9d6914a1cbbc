// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// tarOf packs files, each holding its own name.
func tarOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Size: int64(len(n)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gz(t *testing.T, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zst(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// made is a source layer: what is stored, and its tar.
type made struct {
	mt     types.MediaType
	stored []byte
	tar    []byte
}

// putImage writes an ordinary image of the layers.
func putImage(t *testing.T, target string, layers ...made) {
	t.Helper()
	ctx := context.Background()
	ref := parse(t, target)
	sink, err := OpenSink(ctx, ref, IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	ids := []v1.Hash{}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Layers: []v1.Descriptor{}}
	for _, l := range layers {
		b := newBlob(l.stored, l.mt)
		if _, err := sink.Put(ctx, b.desc, b.open); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, b.desc)
		ids = append(ids, hashOf(l.tar))
	}
	raw, err := json.Marshal(map[string]any{"os": "linux", "architecture": "amd64", "rootfs": rootFS{"layers", ids}, "x-mine": 1})
	if err != nil {
		t.Fatal(err)
	}
	config := newBlob(raw, types.OCIConfigJSON)
	if _, err := sink.Put(ctx, config.desc, config.open); err != nil {
		t.Fatal(err)
	}
	m.Config = config.desc
	putJSON(t, sink, m, types.OCIManifestSchema1, ref.Tag)
	if err := sink.Commit(ctx); err != nil {
		t.Fatal(err)
	}
}

// names lists the files of a converted image, each read and compared with its name.
func names(t *testing.T, image string) []string {
	t.Helper()
	ctx := context.Background()
	_, s := open(t, image)
	im, err := OpenImage(ctx, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := im.Open(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	tree := o.Bootstrap.FS(o.OpenBlob)
	var out []string
	err = fs.WalkDir(tree, ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := fs.ReadFile(tree, p)
		if string(b) != p {
			t.Errorf("%s holds %q", p, b)
		}
		out = append(out, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestKindsOfLayer(t *testing.T) {
	a, b, c := tarOf(t, "a", "both"), tarOf(t, "b", "both"), tarOf(t, ".wh.a", "c")
	empty := tarOf(t)
	for name, layers := range map[string][]made{
		"none":       {},
		"empty":      {{types.OCILayer, gz(t, empty), empty}},
		"formats":    {{types.OCILayer, gz(t, a), a}, {types.OCILayerZStd, zst(t, b), b}, {types.OCIUncompressedLayer, c, c}},
		"mislabeled": {{types.OCILayer, a, a}, {types.OCILayer, zst(t, b), b}},
		"members":    {{types.OCILayer, append(gz(t, a[:700]), gz(t, a[700:])...), a}},
		"repeated":   {{types.OCILayer, gz(t, a), a}, {types.OCILayer, gz(t, empty), empty}, {types.OCILayer, gz(t, c), c}, {types.OCILayer, gz(t, empty), empty}, {types.OCILayer, gz(t, a), a}},
		"twins":      {{types.OCILayer, gz(t, a), a}, {types.OCILayerZStd, zst(t, a), a}},
	} {
		want := map[string][]string{"none": nil, "empty": nil, "formats": {"b", "both", "c"}, "mislabeled": {"a", "b", "both"},
			"members": {"a", "both"}, "repeated": {"a", "both", "c"}, "twins": {"a", "both"}}[name]
		dir := "oci:" + t.TempDir() + "/x"
		putImage(t, dir+":src", layers...)
		mustCheck(t, dir+":src")
		first := convertTo(t, dir+":src", dir+":lazy", Options{})
		mustCheck(t, dir)
		if got := names(t, dir+":lazy"); !slices.Equal(got, want) {
			t.Errorf("%s: files are %v, not %v", name, got, want)
		}
		again := convertTo(t, dir+":src", dir+":lazy", Options{})
		if again.Digest != first.Digest || slices.Contains(hows(again), PhaseDone) {
			t.Errorf("%s: second run gave %v, the same: %t", name, hows(again), again.Digest == first.Digest)
		}
	}
}

func TestRefusedLayers(t *testing.T) {
	a := tarOf(t, "a")
	short := gz(t, a)
	for name, layers := range map[string][]made{
		"encrypted": {{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", gz(t, a), a}},
		"artifact":  {{"application/vnd.cncf.helm.chart.content.v1.tar+gzip", gz(t, a), a}},
		"diff id":   {{types.OCILayer, gz(t, a), tarOf(t, "b")}},
		"cut":       {{types.OCILayer, short[:len(short)-9], a}},
		"no tar":    {{types.OCILayer, gz(t, bytes.Repeat([]byte("x"), 2000)), bytes.Repeat([]byte("x"), 2000)}},
	} {
		dir := t.TempDir()
		putImage(t, "oci:"+dir+"/src:1", layers...)
		if _, err := tryConvert(t, context.Background(), "oci:"+dir+"/src:1", "oci:"+dir+"/out:1", Options{}); err == nil {
			t.Errorf("%s: was converted", name)
		} else if !strings.Contains(err.Error(), "layer") {
			t.Errorf("%s: the error does not name the layer: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "out")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: left something: %v", name, err)
		}
	}
}

// TestBootstrapBomb meets a small layer that unpacks to a lot.
func TestBootstrapBomb(t *testing.T) {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	w := tar.NewWriter(zw)
	const size = 300 << 20
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: bootName, Size: size}); err != nil {
		t.Fatal(err)
	}
	zero := make([]byte, 1<<20)
	for range size >> 20 {
		if _, err := w.Write(zero); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	b := newBlob(buf.Bytes(), types.OCILayer)
	dir := t.TempDir()
	_, err := UnpackBootstrap(context.Background(), memory{b.desc.Digest: b.raw}, b.desc, dir)
	if err == nil || !strings.Contains(err.Error(), "more than 256 times") {
		t.Errorf("error is %v", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "image.boot")); err == nil && st.Size() > max(freeUnpacked, 257*b.desc.Size) {
		t.Errorf("%d bytes were written", st.Size())
	}
}

// TestConfigKept keeps what this program does not know of a config.
func TestConfigKept(t *testing.T) {
	dir := "oci:" + t.TempDir() + "/x"
	a := tarOf(t, "a")
	putImage(t, dir+":src", made{types.OCILayer, gz(t, a), a})
	convertTo(t, dir+":src", dir+":lazy", Options{})
	for _, tag := range []string{"lazy-boot", "lazy-data"} {
		_, s := open(t, dir+":"+tag)
		im, err := OpenImage(context.Background(), s, nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := readAll(context.Background(), s, im.Spec.Config)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(raw, []byte(`"x-mine":1`)) {
			t.Errorf("%s: config is %s", tag, raw)
		}
	}
}

// TestCopyReferenced copies an image whose data lies in another image's layers.
func TestCopyReferenced(t *testing.T) {
	for _, target := range []string{"oci:" + t.TempDir() + "/x:ref", testRegistry(t, nil) + "/x:ref"} {
		ctx := context.Background()
		_, s := open(t, goldenLayout(t, "v6-ociref"))
		sink, err := OpenSink(ctx, parse(t, target), IOOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Copy(ctx, s, sink, "ref", CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		mustCheck(t, target)
		_, copied := open(t, target)
		im, err := OpenImage(ctx, copied, nil)
		if err != nil {
			t.Fatal(err)
		}
		o, err := im.Open(ctx, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if b, err := fs.ReadFile(o.Bootstrap.FS(o.OpenBlob), "many/back"); err != nil || len(b) != 23 {
			t.Errorf("%s: a file reads as %q, %v", target, b, err)
		}
	}
}

// TestLogin converts within a registry that wants a password, from Docker's own file.
func TestLogin(t *testing.T) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != want {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	_, err := tryConvert(t, context.Background(), goldenLayout(t, "src"), host+"/x:lazy", Options{})
	if err == nil || !strings.Contains(err.Error(), "docker login") || strings.Contains(err.Error(), "secret") {
		t.Errorf("without a password: %v", err)
	}
	auth := `{"auths":{"` + host + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("me:secret")) + `"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(auth), 0o600); err != nil {
		t.Fatal(err)
	}
	convertTo(t, goldenLayout(t, "src"), host+"/x:lazy", Options{})
	again := convertTo(t, goldenLayout(t, "src"), host+"/x:lazy", Options{})
	if slices.Contains(hows(again), PhaseDone) {
		t.Errorf("second run: %v", hows(again))
	}
	mustCheck(t, host+"/x:lazy")
}
