// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"lighter/format"
	. "lighter/format/formattest"
)

func build(t *testing.T, layers ...[]byte) *Image {
	t.Helper()
	im, err := buildErr(layers...)
	if err != nil {
		t.Fatal(err)
	}
	im.Check(t)
	return im
}

func buildErr(layers ...[]byte) (*Image, error) {
	var tars []io.Reader
	for _, l := range layers {
		tars = append(tars, bytes.NewReader(l))
	}
	return Build(tars, format.BuildOptions{})
}

func build4K(t *testing.T, layer []byte) *Image {
	t.Helper()
	im, err := Build([]io.Reader{bytes.NewReader(layer)}, format.BuildOptions{ChunkSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestBuildEntries(t *testing.T) {
	for _, c := range Corpus() {
		t.Run(c.Name, func(t *testing.T) {
			if got := Short(build(t, tars(t, c)...).List(t)); got != c.Want {
				t.Errorf("got\n%swant\n%s", got, c.Want)
			}
		})
	}
	if got := Short(build(t, nil).List(t)); got != ". d 755\n" {
		t.Errorf("of no bytes: %s", got)
	}
}

// TestBuildWithoutData lets the peers read an image that has no blob.
func TestBuildWithoutData(t *testing.T) {
	im := build(t, Tar(t, Dir("d"), Symlink("d/l", "t"), File{Name: "empty"}), Tar(t, File{Name: ".wh.empty"}))
	if len(im.Merged.Blobs) != 0 {
		t.Errorf("blobs %v", im.Merged.Blobs)
	}
	im.CheckWithPeers(t, im.List(t))
}

func tars(t *testing.T, c Case) (layers [][]byte) {
	t.Helper()
	for _, files := range c.Layers {
		layers = append(layers, Tar(t, files...))
	}
	return layers
}

func TestBuildRefuses(t *testing.T) {
	refused := func(t *testing.T, want string, layers ...[]byte) {
		t.Helper()
		if _, err := buildErr(layers...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	for _, c := range Hostile() {
		t.Run(c.Name, func(t *testing.T) { refused(t, c.Want, tars(t, c)...) })
	}
	refused(t, "unexpected EOF", Tar(t, File{Name: "a", Content: strings.Repeat("x", 5000)})[:3000])
	refused(t, "layer tar", bytes.Repeat([]byte("garbage "), 200))
}

// TestBuildGlobalHeader has what "git archive" writes first.
func TestBuildGlobalHeader(t *testing.T) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}},
		{Typeflag: tar.TypeReg, Name: "a", Mode: 0o600},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if got := Short(build(t, out.Bytes()).List(t)); got != ". d 755\na f 600\n" {
		t.Errorf("got %s", got)
	}
}

func TestBuildTimes(t *testing.T) {
	im := build(t, Tar(t,
		File{Name: "before", Mtime: time.Unix(-5, 0)},
		File{Name: "sub", Mtime: time.Unix(7, 123456789)},
		File{Name: "late", Mtime: time.Unix(4e9, 0)},
		File{Name: "never", Mtime: time.Unix(1e11, 0)}))
	for name, want := range map[string]time.Time{
		"before": time.Unix(0, 0), "sub": time.Unix(7, 123456789), "late": time.Unix(4e9, 0), "never": time.Unix(0, 0),
	} {
		i, err := im.Bootstrap.LookupPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := time.Unix(i.Mtime, int64(i.MtimeNsec)); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// TestBuildDeterministic builds a layer with different numbers of workers.
func TestBuildDeterministic(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var files []File
	for i := range 300 {
		p := make([]byte, r.IntN(20000))
		for k := range p {
			p[k] = byte(r.IntN(1 + i%7))
		}
		files = append(files, File{Name: fmt.Sprintf("d%d/f%d", i%5, i), Content: string(p),
			Xattrs: map[string]string{"user.a": "1", "user.b": "2", "security.x": "3"}})
	}
	in := Tar(t, files...)
	dict, err := format.NewChunkDict(build4K(t, Tar(t, files[100:200]...)).Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	none, lz4, gzip := format.None, format.LZ4Block, format.Gzip
	for _, o := range []format.BuildOptions{
		{}, {Compressor: &lz4}, {Compressor: &none}, {Compressor: &gzip}, {Version: 5}, {BatchSize: 4096}, {ChunkDict: dict, BatchSize: 4096},
	} {
		var want []byte
		for _, workers := range []int{1, 2, 7, 1, 16} {
			var out bytes.Buffer
			o.Workers, o.ChunkSize = workers, 4096
			if _, err := format.BuildLayer(&out, bytes.NewReader(in), o); err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want = out.Bytes()
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("%+v: %d workers give other bytes", o, workers)
			}
		}
	}
}

func TestBuildDedup(t *testing.T) {
	one := strings.Repeat("abcd", 5000)
	im := build(t, Tar(t, File{Name: "a", Content: one}, File{Name: "b", Content: one}, File{Name: "c", Content: one + "x"}, File{Name: "e"}))
	if n := im.Layers[0].ChunkCount; n != 2 {
		t.Errorf("%d chunks, want 2", n)
	}
}

type failing struct{ after int }

var errWrite = errors.New("disk full")

func (f *failing) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errWrite
	}
	return len(p), nil
}

func TestBuildWriteError(t *testing.T) {
	p := make([]byte, 10<<20)
	for i := range p {
		p[i] = byte(rand.Int())
	}
	in := Tar(t, File{Name: "a", Content: string(p)})
	for _, after := range []int{0, 1 << 20, 10 << 20} {
		if _, err := format.BuildLayer(&failing{after}, bytes.NewReader(in), format.BuildOptions{}); !errors.Is(err, errWrite) {
			t.Errorf("after %d bytes: %v", after, err)
		}
	}
}

func TestBuildOptions(t *testing.T) {
	for _, o := range []format.BuildOptions{
		{ChunkSize: 4097}, {ChunkSize: 2048}, {ChunkSize: 1 << 25}, {Digester: 7}, {Level: 99}, {Version: 4},
		{BatchSize: 2048}, {BatchSize: 5000}, {BatchSize: 1 << 21}, {BatchSize: 1 << 20, Version: 5},
	} {
		if _, err := format.BuildLayer(io.Discard, bytes.NewReader(nil), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	in := Tar(t, File{Name: "a", Content: strings.Repeat("x", 1000)})
	if _, err := format.BuildLayer(io.Discard, bytes.NewReader(in), format.BuildOptions{MaxSize: 999}); err == nil {
		t.Error("a file above MaxSize is accepted")
	}
	for _, o := range []format.BuildOptions{{Digester: format.SHA256}, {ChunkSize: 4096}, {ChunkSize: 1 << 24}, {Level: 19}} {
		im, err := Build([]io.Reader{bytes.NewReader(in)}, o)
		if err != nil {
			t.Fatal(err)
		}
		im.Check(t)
	}
}
