// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"lighter/format"
	. "lighter/format/formattest"
)

// TestCorpusPeers lets the kernel and fsck.erofs read every case.
func TestCorpusPeers(t *testing.T) {
	for _, c := range Corpus() {
		im := build(t, tars(t, c)...)
		if c.Name != "deep path" { // 1,000 levels overflow the stack of fsck.erofs 1.5
			im.CheckWithFsck(t)
		}
		if d := Diff(im.List(t), im.ListWithKernel(t)); d != "" {
			t.Errorf("%s: kernel: %s", c.Name, d)
		}
	}
}

// FuzzTree builds random stacks of layers: what unpacking them shows, our
// reader, the kernel, fsck.erofs and the same stack as references to its
// layers must agree.
func FuzzTree(f *testing.F) {
	for seed := range uint64(6) {
		f.Add(seed, uint8(seed%4), uint8(20*seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, layers, entries uint8) {
		r := rand.New(rand.NewPCG(seed, 2))
		m, err := NewModel(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		var archives [][]byte
		var in []io.Reader
		for range 1 + layers%4 {
			p, err := RandomLayer(r, m, int(entries))
			if err != nil {
				t.Fatal(err)
			}
			archives, in = append(archives, zip(t, p, 6)), append(in, bytes.NewReader(p))
		}
		if err := m.Finish(); err != nil {
			t.Fatal(err)
		}
		want, err := ListDir(m.Dir)
		if err != nil {
			t.Fatal(err)
		}
		im, err := Build(in, format.BuildOptions{ChunkSize: 4096})
		if err != nil {
			t.Fatal(err)
		}
		if d := Diff(want, im.List(t)); d != "" {
			t.Errorf("unpacked: %s", d)
		}
		if d := Diff(want, im.ListWithKernel(t)); d != "" {
			t.Errorf("kernel: %s", d)
		}
		im.CheckWithFsck(t)
		ref, err := BuildReferences(archives, format.BuildOptions{ChunkSize: 4096})
		if err != nil {
			if !errors.Is(err, format.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		checkReference(t, "references", ref, want)
	})
}
