// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	"lighter/format"
)

// manyFiles writes a layer of n files in directories of a hundred.
func manyFiles(t testing.TB, layer, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range n {
		content := fmt.Appendf(nil, "%d %d", layer, i)
		h := &tar.Header{Name: fmt.Sprintf("usr/lib/d%d/dir%d/file-%d", layer%7, i/100, i*(layer+1)), Size: int64(len(content)), Mode: 0o644}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkMerge merges 50 layers of 10,000 files each.
func BenchmarkMerge(b *testing.B) {
	var layers []format.MergeLayer
	for i := range 50 {
		l, err := format.BuildLayer(io.Discard, bytes.NewReader(manyFiles(b, i, 10000)), format.BuildOptions{})
		if err != nil {
			b.Fatal(err)
		}
		boot, err := format.OpenBytes(l.Bootstrap)
		if err != nil {
			b.Fatal(err)
		}
		layers = append(layers, format.MergeLayer{ID: hex.EncodeToString(l.Digest[:]), Bootstrap: boot})
	}
	b.ResetTimer()
	for b.Loop() {
		m, err := format.Merge(io.Discard, layers, format.MergeOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(m.Size)
	}
}
