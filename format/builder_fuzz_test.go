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

// FuzzBuildLayer builds a layer of any bytes, alone and over another layer:
// there is an error, or the result passes Check.
func FuzzBuildLayer(f *testing.F) {
	lower := Tar(f, Dir("d"), File{Name: "d/a", Content: "x"}, Symlink("l", "d"), Hardlink("h", "d/a"))
	seeds := [][]byte{
		nil, lower,
		Tar(f, File{Name: "d/.wh.a"}, File{Name: "d/.wh..wh..opq"}, Hardlink("l/b", "h"), File{Name: "l/c"}),
		Tar(f, File{Name: "a", Xattrs: map[string]string{"user.x": "y", "security.capability": "z"}}, File{Name: "a/../../b"}),
	}
	for seed := range uint64(10) {
		m, err := NewModel(f.TempDir())
		if err != nil {
			f.Fatal(err)
		}
		p, err := RandomLayer(rand.New(rand.NewPCG(seed, 2)), m, 30)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, p)
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		o := format.BuildOptions{ChunkSize: 4096, Workers: 2, MaxSize: 1 << 20}
		for _, layers := range [][]io.Reader{{bytes.NewReader(p)}, {bytes.NewReader(lower), bytes.NewReader(p)}} {
			im, err := Build(layers, o)
			if errors.Is(err, format.ErrCorrupt) {
				t.Fatalf("what was built is corrupt: %v", err)
			}
			if err != nil {
				continue
			}
			im.Check(t)
			im.List(t)
		}
	})
}
