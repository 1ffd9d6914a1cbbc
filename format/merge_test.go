// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"lighter/format"
	. "lighter/format/formattest"
)

// layer builds one layer for Merge.
func layer(t testing.TB, o format.BuildOptions, files ...File) format.MergeLayer {
	t.Helper()
	l, err := format.BuildLayer(io.Discard, bytes.NewReader(Tar(t, files...)), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := format.OpenBytes(l.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	return format.MergeLayer{ID: hex.EncodeToString(l.Digest[:]), Bootstrap: b}
}

func merge(t testing.TB, o format.MergeOptions, layers ...format.MergeLayer) (*format.Bootstrap, *format.Merged) {
	t.Helper()
	var out bytes.Buffer
	m, err := format.Merge(&out, layers, o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := format.OpenBytes(out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return b, m
}

func TestMergeBlobs(t *testing.T) {
	a := layer(t, format.BuildOptions{}, File{Name: "z", Content: "1"}, File{Name: "gone", Content: "2"})
	none := layer(t, format.BuildOptions{}, Dir("d"))
	over := layer(t, format.BuildOptions{}, File{Name: "b", Content: "3"}, File{Name: ".wh.gone"})
	cover := layer(t, format.BuildOptions{}, File{Name: "z", Content: "4"})

	_, m := merge(t, format.MergeOptions{}, a, none, over, a)
	if got, want := strings.Join(m.Blobs, " "), over.ID+" "+a.ID; got != want {
		t.Errorf("blobs %s, want %s: by first use, each once", got, want)
	}
	_, m = merge(t, format.MergeOptions{}, a, over, cover)
	if got, want := strings.Join(m.Blobs, " "), over.ID+" "+cover.ID; got != want {
		t.Errorf("blobs %s, want %s: without those no longer used", got, want)
	}
	b, m := merge(t, format.MergeOptions{}, none)
	if len(m.Blobs) != 0 || b.Info().Size != 8192 || m.Size != 8192 {
		t.Errorf("an image without data has %d blobs and %d bytes", len(m.Blobs), b.Info().Size)
	}
	if b, _ = merge(t, format.MergeOptions{}); b.Info().Inodes != 1 {
		t.Errorf("an image without layers has %d inodes", b.Info().Inodes)
	}
}

func TestMergePrefetch(t *testing.T) {
	a := layer(t, format.BuildOptions{}, File{Name: "d/a", Content: "1"})
	b, _ := merge(t, format.MergeOptions{Prefetch: []string{"/d/a", "/nothing", "d", "/"}}, a)
	nids, err := b.Prefetch()
	if err != nil {
		t.Fatal(err)
	}
	var want []uint64
	for _, p := range []string{"d/a", "d", ""} {
		i, err := b.LookupPath(p)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, i.Nid)
	}
	if len(nids) != 3 || nids[0] != want[0] || nids[1] != want[1] || nids[2] != want[2] {
		t.Errorf("prefetch table %d, want %d", nids, want)
	}
}

func TestMergeRefuses(t *testing.T) {
	a := layer(t, format.BuildOptions{}, File{Name: "a", Content: "1"})
	small := layer(t, format.BuildOptions{ChunkSize: 4096}, File{Name: "a", Content: "1"})
	other := layer(t, format.BuildOptions{}, File{Name: "a", Content: strings.Repeat("1", 9000)})
	other.ID = a.ID
	noID := a
	noID.ID = ""
	for _, c := range []struct {
		want   string
		layers []format.MergeLayer
	}{
		{"chunk size", []format.MergeLayer{a, small}},
		{"differs from the one of that id", []format.MergeLayer{a, other}},
		{"has no place", []format.MergeLayer{noID}},
	} {
		if _, err := format.Merge(io.Discard, c.layers, format.MergeOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
	if _, err := format.Merge(&failing{100}, []format.MergeLayer{a}, format.MergeOptions{}); !errors.Is(err, errWrite) {
		t.Errorf("failing writer: %v", err)
	}
}

// TestMergeGolden merges bootstraps of the reference builder's own layers and
// compares with the listing of the image.
func TestMergeGolden(t *testing.T) {
	for _, tag := range []string{"v6-zstd", "v6-lz4_block", "v6-none"} {
		var layers []format.MergeLayer
		for _, l := range GoldenBlobs(t, tag) {
			lb, err := format.ReadLayerBlob(bytes.NewReader(l.Bytes), int64(len(l.Bytes)))
			if err != nil {
				t.Fatal(err)
			}
			boot, err := lb.Bootstrap()
			if err != nil {
				t.Fatal(err)
			}
			b, err := format.OpenBytes(boot)
			if err != nil {
				t.Fatal(err)
			}
			layers = append(layers, format.MergeLayer{ID: l.ID, Bootstrap: b})
		}
		var out bytes.Buffer
		if _, err := format.Merge(&out, layers, format.MergeOptions{Prefetch: []string{"/"}}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), goldenBootstrap(t, tag)) {
			t.Errorf("%s: not the bytes that the reference builder merged", tag)
		}
	}
}
