// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestAddHistory(t *testing.T) {
	two := `{"os":"linux","history":[{"created_by":"a"},{"created_by":"b","empty_layer":true},{"created_by":"c"}]}`
	for _, c := range []struct {
		layers int
		config string
		want   int // lines
	}{{2, two, 4}, {3, two, 3}, {0, `{"os":"linux"}`, 1}, {1, `{"os":"linux"}`, 0}} {
		meta := map[string][]byte{exptypes.ExporterImageConfigKey: []byte(c.config)}
		if err := addHistory(meta, nil, c.layers); err != nil {
			t.Fatal(err)
		}
		var im ocispecs.Image
		if err := json.Unmarshal(meta[exptypes.ExporterImageConfigKey], &im); err != nil {
			t.Fatal(err)
		}
		if len(im.History) != c.want || im.OS != "linux" {
			t.Errorf("%d layers, %s: history %v", c.layers, c.config, im.History)
		}
	}
	if err := addHistory(map[string][]byte{exptypes.ExporterImageConfigKey: []byte("[")}, nil, 0); err == nil {
		t.Error("a config that is no JSON is taken")
	}
}

func TestClamp(t *testing.T) {
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	for name, sec := range map[string]int64{"old": 5, "new": 500} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, ModTime: time.Unix(sec, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c := &clamp{epoch: time.Unix(100, 0), base: []digest.Digest{"sha256:a"}}
	r, stop := c.reader(&in)
	defer stop()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]int64{"old": 5, "new": 100}[h.Name]; h.ModTime.Unix() != want {
			t.Errorf("%s has time %v", h.Name, h.ModTime)
		}
	}
	base := &ocispecs.Descriptor{Annotations: map[string]string{"containerd.io/uncompressed": "sha256:a"}}
	if !c.keeps(0, base) || c.keeps(1, base) || c.keeps(0, nil) {
		t.Error("layers of the base image are told wrongly")
	}
}
