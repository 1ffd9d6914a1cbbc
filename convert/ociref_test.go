// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestOCIRef converts without storing data twice: into a layout, into the
// source's own repository, and into another one.
func TestOCIRef(t *testing.T) {
	var uploaded atomic.Int64
	host := testRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut || r.Method == http.MethodPatch {
				r.Body = counted{r.Body, &uploaded}
			}
			h.ServeHTTP(w, r)
		})
	})
	src, _ := ordinary(t, goldenLayout(t, "src"))
	copyTo(t, goldenLayout(t, "src"), host+"/app:1")
	layout := "oci:" + t.TempDir() + "/x:1"
	copyTo(t, goldenLayout(t, "src"), layout)
	for _, c := range []struct{ from, to string }{
		{layout, layout + "-ref"}, {host + "/app:1", host + "/app:1-ref"}, {host + "/app:1", host + "/app:1-none"}, {host + "/app:1", host + "/other:1-ref"},
	} {
		uploaded.Store(0)
		o := Options{OCIRef: true}
		if strings.HasSuffix(c.to, "none") {
			o.Index = IndexNone
		}
		convertTo(t, c.from, c.to, o)
		if n := uploaded.Load(); c.to == host+"/app:1-ref" && (n == 0 || n > 1<<20) {
			t.Errorf("%s: %d bytes uploaded", c.to, n)
		}
		mustList(t, c.to)
		mustCheck(t, c.to)
		if p := against(t, c.to, c.from); len(p) > 0 {
			t.Errorf("%s: %q", c.to, p)
		}
		im, _ := ordinary(t, c.to)
		for i, d := range im.Spec.Layers[:len(im.Spec.Layers)-1] {
			if ref := d.Annotations[annRef]; ref != src.Spec.Layers[i].Digest.String() || d.Size > 1<<20 {
				t.Errorf("%s: layer %d of %d bytes refers to %s", c.to, i, d.Size, ref)
			}
		}
		x := exportImage(t, c.to, "oci:"+t.TempDir()+"/out:1")
		for i, l := range x.Layers {
			if l.How != ExportOriginal || l.Digest != src.Spec.Layers[i].Digest {
				t.Errorf("%s: layer %d is exported as %s %s", c.to, i, l.How, l.Digest)
			}
		}
		if res := convertTo(t, c.from, c.to, o); res.Platforms[0].Layers[0].How != PhaseReused {
			t.Errorf("%s: converted again, layer is %s", c.to, res.Platforms[0].Layers[0].How)
		}
		copied := "oci:" + t.TempDir() + "/copied:1"
		copyTo(t, c.to, copied)
		mustList(t, copied)
	}
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// TestOCIRefLayers has layers of all kinds, one of them twice.
func TestOCIRefLayers(t *testing.T) {
	a, b, c := tarOf(t, "a", "both"), tarOf(t, "b", "both"), tarOf(t, ".wh.a", "c")
	dir := "oci:" + t.TempDir() + "/x:"
	one := made{types.OCILayer, gz(t, a), a}
	putImage(t, dir+"src", one, made{types.OCIUncompressedLayer, b, b}, made{types.OCILayer, gz(t, c), c}, one, made{types.OCILayer, gz(t, tarOf(t)), tarOf(t)})
	convertTo(t, dir+"src", dir+"ref", Options{OCIRef: true})
	mustCheck(t, dir+"ref")
	if got := strings.Join(names(t, dir+"ref"), " "); got != "a b both c" {
		t.Errorf("the image has %s", got)
	}
	putImage(t, dir+"zstd", one, made{types.OCILayerZStd, zst(t, b), b})
	_, err := tryConvert(t, context.Background(), dir+"zstd", dir+"no", Options{OCIRef: true})
	if err == nil || !strings.Contains(err.Error(), "layer in zstd") || !strings.Contains(err.Error(), "without --oci-ref") {
		t.Errorf("error %v", err)
	}
}
