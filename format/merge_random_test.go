// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"lighter/format"
	"lighter/format/formattest"
)

// TestMergeRandom compares random stacks of layers with what unpacking them
// shows, and where possible with what the kernel's overlayfs shows.
func TestMergeRandom(t *testing.T) {
	witnessed := 0
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		m, err := formattest.NewModel(dir)
		if err != nil {
			t.Fatal(err)
		}
		var tars []io.Reader
		for range 1 + r.IntN(4) {
			p, err := formattest.RandomLayer(r, m, 5+r.IntN(60))
			if err != nil {
				t.Fatalf("seed %d: model: %v", seed, err)
			}
			tars = append(tars, bytes.NewReader(p))
		}
		if err := m.Finish(); err != nil {
			t.Fatalf("seed %d: model: %v", seed, err)
		}
		want, err := formattest.ListDir(filepath.Clean(m.Dir))
		if err != nil {
			t.Fatal(err)
		}
		overlay, ok, err := m.ListOverlay()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if ok {
			witnessed++
			if d := formattest.Diff(overlay, want.WithoutLinks()); d != "" {
				t.Fatalf("seed %d: overlayfs and the model differ:\n%s", seed, d)
			}
		}
		im, err := formattest.Build(tars, format.BuildOptions{ChunkSize: 4096})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if seed%10 == 0 {
			for _, r := range tars {
				if _, err := r.(io.Seeker).Seek(0, io.SeekStart); err != nil {
					t.Fatal(err)
				}
			}
			again, err := formattest.Build(tars, format.BuildOptions{ChunkSize: 4096, Workers: 5})
			if err != nil || !bytes.Equal(again.Bytes, im.Bytes) {
				t.Errorf("seed %d: built again, other bytes (%v)", seed, err)
			}
		}
		if d := formattest.Diff(want, im.List(t)); d != "" {
			t.Errorf("seed %d, %d layers:\n%s", seed, len(tars), d)
		}
		if seed%6 == 0 {
			im.Check(t)
		}
		if seed%30 == 0 {
			im.CheckWithPeers(t, want)
		}
		if t.Failed() {
			break
		}
	}
	if witnessed == 0 {
		t.Error("no stack was compared with overlayfs")
	}
	t.Logf("%d stacks also compared with overlayfs", witnessed)
}
