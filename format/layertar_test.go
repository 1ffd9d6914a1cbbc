// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"lighter/format"
	"lighter/format/formattest"
)

// TestWriteLayerTar takes layers out of their blobs again: what is built of them
// equals what they were built of.
func TestWriteLayerTar(t *testing.T) {
	var stacks [][]io.Reader
	var names []string
	for _, c := range formattest.Corpus() {
		var tars []io.Reader
		for _, l := range c.Layers {
			tars = append(tars, bytes.NewReader(formattest.Tar(t, l...)))
		}
		stacks, names = append(stacks, tars), append(names, c.Name)
	}
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 2))
		m, err := formattest.NewModel(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		var tars []io.Reader
		for range 1 + r.IntN(4) {
			p, err := formattest.RandomLayer(r, m, 5+r.IntN(60))
			if err != nil {
				t.Fatal(err)
			}
			tars = append(tars, bytes.NewReader(p))
		}
		stacks, names = append(stacks, tars), append(names, "random")
	}
	for i, tars := range stacks {
		first, err := formattest.Build(tars, format.BuildOptions{ChunkSize: 4096})
		if err != nil {
			t.Fatalf("%s: %v", names[i], err)
		}
		again, err := formattest.Build(layerTars(t, first), format.BuildOptions{ChunkSize: 4096})
		if err != nil {
			t.Fatalf("%s: %v", names[i], err)
		}
		if d := formattest.Diff(first.List(t), again.List(t)); d != "" {
			t.Errorf("%s, number %d:\n%s", names[i], i, d)
		}
	}
}

func layerTars(t *testing.T, im *formattest.Image) (out []io.Reader) {
	t.Helper()
	for _, l := range im.Layers {
		b, err := format.OpenBytes(l.Bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if err := format.WriteLayerTar(&buf, b, func(format.Blob) (io.ReaderAt, int64, error) {
			p := im.BlobOf(l)
			return bytes.NewReader(p), int64(len(p)), nil
		}); err != nil {
			t.Fatal(err)
		}
		out = append(out, &buf)
	}
	return out
}
