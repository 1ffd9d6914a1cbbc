// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"

	"lighter/format"
	. "lighter/format/formattest"
)

// archivers make gzip archives in all the ways that layers meet.
var archivers = map[string]func(t testing.TB, tar []byte) []byte{
	"tar":          func(_ testing.TB, tar []byte) []byte { return tar },
	"stored":       func(t testing.TB, tar []byte) []byte { return zip(t, tar, flate.NoCompression) },
	"fast":         func(t testing.TB, tar []byte) []byte { return zip(t, tar, flate.BestSpeed) },
	"default":      func(t testing.TB, tar []byte) []byte { return zip(t, tar, flate.DefaultCompression) },
	"best":         func(t testing.TB, tar []byte) []byte { return zip(t, tar, flate.BestCompression) },
	"huffman only": func(t testing.TB, tar []byte) []byte { return zip(t, tar, flate.HuffmanOnly) },
	"klauspost": func(t testing.TB, tar []byte) []byte {
		var out bytes.Buffer
		w := kgzip.NewWriter(&out)
		w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
		write(t, w, tar)
		return out.Bytes()
	},
	"members": func(t testing.TB, tar []byte) (out []byte) {
		for len(tar) > 0 {
			n := min(len(tar), 70001)
			out, tar = append(out, zip(t, tar[:n], 6)...), tar[n:]
		}
		return out
	},
	"flushed": func(t testing.TB, tar []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		for len(tar) > 0 {
			n := min(len(tar), 3001)
			if _, err := w.Write(tar[:n]); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			tar = tar[n:]
		}
		write(t, w, nil)
		return out.Bytes()
	},
	"gzip -9": func(t testing.TB, tar []byte) []byte {
		cmd := exec.Command("gzip", "-9", "--no-name")
		cmd.Stdin = bytes.NewReader(tar)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return append(out, make([]byte, 1000)...) // padding
	},
}

func zip(t testing.TB, p []byte, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, p)
	return out.Bytes()
}

func write(t testing.TB, w interface {
	Write([]byte) (int, error)
	Close() error
}, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// mixed returns files of all compressibilities, some of them large.
func mixed() (files []File) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 25 {
		p := make([]byte, []int{10, 5000, 70000, 300000, 1200000}[i%5]+r.IntN(99))
		alphabet := []int{256, 20, 60, 1, 100}[i/5%5]
		for k := range p {
			p[k] = byte(r.IntN(alphabet))
			if k > 1000 && alphabet == 60 && k%7 != 0 {
				p[k] = p[k-1000]
			}
		}
		files = append(files, File{Name: fmt.Sprintf("d%d/f%d", i%3, i), Content: string(p)})
	}
	return append(files, File{Name: "copy", Content: files[3].Content}, File{Name: "empty"})
}

// TestReference reads images whose data stays in layers of all kinds.
func TestReference(t *testing.T) {
	layers := [][]byte{Tar(t, mixed()...), Tar(t, File{Name: "over", Content: "x"}, File{Name: "d1/.wh.f1"}), Tar(t, Dir("only"))}
	want := build(t, layers...).List(t)
	for name, pack := range archivers {
		var archives [][]byte
		for _, l := range layers {
			archives = append(archives, pack(t, l))
		}
		for _, chunk := range []uint32{0, 1 << 16} {
			im, err := BuildReferences(archives, format.BuildOptions{ChunkSize: chunk})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			checkReference(t, name, im, want)
		}
	}
}

func checkReference(t *testing.T, name string, im *Image, want Listing) {
	t.Helper()
	got, err := im.ListContent()
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if d := Diff(want, got); d != "" {
		t.Errorf("%s: %s", name, d)
	}
	r, err := format.Check(im.Bootstrap, im.Open, format.CheckOptions{})
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		t.Errorf("%s: check: %v", name, err)
	}
}

// TestReferenceCorpus lets the whole corpus stay in its layers.
func TestReferenceCorpus(t *testing.T) {
	for _, c := range Corpus() {
		var archives [][]byte
		for _, l := range tars(t, c) {
			archives = append(archives, zip(t, l, 6))
		}
		im, err := BuildReferences(archives, format.BuildOptions{})
		if errors.Is(err, format.ErrUnsupported) && strings.Contains(err.Error(), "sparse") {
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		checkReference(t, c.Name, im, build(t, tars(t, c)...).List(t))
	}
}

func TestReferenceRefuses(t *testing.T) {
	good := zip(t, Tar(t, File{Name: "a", Content: strings.Repeat("content", 1000)}), 6)
	bad := func(name, want string, p []byte) {
		t.Helper()
		if _, err := BuildReferences([][]byte{p}, format.BuildOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", name, err, want)
		}
	}
	bad("zstd", "layer in zstd", []byte("\x28\xb5\x2f\xfd rest"))
	bad("skippable zstd", "layer in zstd", []byte("\x50\x2a\x4d\x18 rest"))
	bad("cut", "unexpected EOF", good[:len(good)-20])
	bad("trailer", "unexpected EOF", good[:len(good)-3])
	bad("header", "unexpected EOF", good[:5])
	method := bytes.Clone(good)
	method[2] = 7
	bad("method", "unknown method", method)
	block := bytes.Clone(good)
	block[10] = 0xff
	bad("block type", "deflate", block)
	bad("sparse", "sparse", zip(t, Tar(t, File{Raw: sparseRaw(t)}), 6))
}

func sparseRaw(t *testing.T) []byte {
	for _, c := range Corpus() {
		if c.Name == "sparse, PAX 1.0" {
			return c.Layers[0][0].Raw
		}
	}
	t.Fatal("the corpus has no sparse file")
	return nil
}
