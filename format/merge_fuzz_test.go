// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"lighter/format"
	. "lighter/format/formattest"
)

// FuzzMerge merges any bytes that open as a bootstrap over a sound layer:
// there is an error, or the result passes Check.
func FuzzMerge(f *testing.F) {
	lowers := map[int]format.MergeLayer{}
	for _, version := range []int{5, 6} {
		lowers[version] = layer(f, format.BuildOptions{ChunkSize: 4096, Version: version},
			Dir("d"), File{Name: "d/a", Content: "x"}, Symlink("l", "d"), Hardlink("h", "d/a"))
	}
	for _, files := range [][]File{
		nil,
		{{Name: "a", Content: "1"}, Hardlink("b", "a"), Dir("d"), Symlink("s", "t")},
		{{Name: "d/.wh.a"}, Hardlink("k", "h"), {Name: ".wh..wh..opq"}, {Name: "x/y/z", Content: string(make([]byte, 9000))}},
		{{Name: "a", Xattrs: map[string]string{"user.x": "y", "security.capability": "z"}}},
	} {
		for _, o := range []format.BuildOptions{{ChunkSize: 4096}, {ChunkSize: 4096, Version: 5}, {ChunkSize: 4096, BatchSize: 4096}} {
			l, err := format.BuildLayer(io.Discard, bytes.NewReader(Tar(f, files...)), o)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(l.Bootstrap)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := format.OpenBytes(p)
		if err != nil {
			return
		}
		var out bytes.Buffer
		upper := format.MergeLayer{ID: "0123", Bootstrap: b}
		if _, err = format.Merge(&out, []format.MergeLayer{lowers[b.Info().Version], upper}, format.MergeOptions{Prefetch: []string{"/"}}); err != nil {
			return
		}
		m, err := format.OpenBytes(out.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		r, err := format.Check(m, nil, format.CheckOptions{})
		if err = errors.Join(err, r.Err()); err != nil {
			t.Fatal(err)
		}
	})
}
