// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// flips calls try with each of some flipped bytes of a file, all of them if it is short.
func flips(t *testing.T, path string, try func(off int64)) {
	t.Helper()
	fi, err := os.Stat(path)
	must(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	const most = 150
	rnd := rand.New(rand.NewPCG(3, uint64(fi.Size())))
	for i := range min(fi.Size(), most) {
		off := i
		if fi.Size() > most {
			off = rnd.Int64N(fi.Size())
		}
		var b [1]byte
		_, err := f.ReadAt(b[:], off)
		must(t, err)
		_, err = f.WriteAt([]byte{b[0] ^ byte(1+rnd.IntN(255))}, off)
		must(t, err)
		try(off)
		_, err = f.WriteAt(b[:], off)
		must(t, err)
	}
}

// Whatever byte changes in what the driver keeps: a layer is refused, or reading it fails, or it reads as before.
func TestFlippedBytes(t *testing.T) {
	e := newEnv(t)
	blob := uncompressedBlob([]byte(strings.Repeat("data of a blob", 1000)))
	layers := map[string][]byte{
		"plain": makeTar(t, dir("d/"), reg("d/f", strings.Repeat("file content\n", 500)), reg("g", "x")),
		"blob":  blob,
		"lazy":  bootstrapLayer(t, reg("image/lighter.json", `{"version":1,"repository":"h/r"}`)),
	}
	for id, data := range layers {
		e.layer(id, "", data)
	}
	var files []string
	for _, sub := range []string{"layers", "overlay2/plain/diff"} {
		must(t, filepath.WalkDir(filepath.Join(e.d.root, sub), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		}))
	}
	if len(files) < 7 {
		t.Fatalf("only %d files: %v", len(files), files)
	}
	for _, path := range files {
		rel, _ := filepath.Rel(e.d.root, path)
		t.Run(rel, func(t *testing.T) {
			if filepath.Base(path) == recordFile {
				flips(t, path, func(off int64) {
					l := e.d.loadLayer(filepath.Base(filepath.Dir(path)))
					if l.bad == nil {
						t.Errorf("offset %d: record is taken: %+v", off, l.record)
					} else if !strings.Contains(l.bad.Error(), path) {
						t.Errorf("offset %d: the error does not name the file: %v", off, l.bad)
					}
				})
				return
			}
			caught := 0
			flips(t, path, func(off int64) {
				for id, data := range layers {
					rc, err := e.d.Diff(id, "")
					if err != nil {
						caught++
						continue
					}
					got, err := io.ReadAll(rc)
					rc.Close()
					if err != nil {
						caught++
					} else if !bytes.Equal(got, data) {
						t.Errorf("offset %d: %s came back otherwise, without error", off, id)
					}
				}
				if _, err := e.d.Get("lazy", ""); err != nil {
					caught++
				} else {
					must(t, e.d.Put("lazy"))
				}
			})
			if caught == 0 {
				t.Error("no flip was noticed")
			}
		})
	}
}

// A damaged record makes the layer unusable, and with it all layers above: none shows a tree that lacks a layer.
func TestDamagedRecord(t *testing.T) {
	e := newEnv(t)
	e.lazyImage()
	must(t, e.d.Create("c1", "app", CreateOptions{}))
	path := filepath.Join(e.d.layerDir("lazy"), recordFile)
	must(t, os.WriteFile(path, []byte(`{"version":1}`), 0o600))
	e.open()
	for _, id := range []string{"lazy", "app", "c1"} {
		if _, err := e.d.Get(id, ""); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := e.d.Create("c2", "lazy", CreateOptions{}); err == nil {
		t.Error("a layer was made above it")
	}
	for _, id := range []string{"c1", "app", "lazy"} {
		must(t, e.d.Remove(id))
	}
	e.lazyImage()
	must2(e.d.Get("app", ""))
	must(t, e.d.Put("app"))
}

func TestDamagedState(t *testing.T) {
	e := newEnv(t)
	path := e.d.statePath()
	whole, err := os.ReadFile(path)
	must(t, err)
	flips(t, path, func(off int64) {
		if c, err := e.d.loadState(); err == nil {
			t.Errorf("offset %d: state is taken: %+v", off, c)
		}
	})
	must(t, os.WriteFile(path, whole[:len(whole)/2], 0o600))
	e.open()
	if err := e.d.Create("a", "", CreateOptions{}); err == nil {
		t.Error("works without Init")
	}
	must(t, e.d.Init(Config{Home: "/h"}))
	must(t, e.d.Create("a", "", CreateOptions{}))
}

// A diff that turns out wrong at its end is cut off, so that no client takes it for whole.
func TestDiffIsCutOff(t *testing.T) {
	e := newEnv(t)
	c := e.serve()
	data := makeTar(t, reg("a", strings.Repeat("a", 1<<20)), reg("z", "last"))
	e.layer("plain", "", data)
	must(t, os.WriteFile(filepath.Join(e.d.diffDir("plain"), "z"), []byte("LAST"), 0o644))
	rc, err := c.Diff("plain", "")
	must(t, err)
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err == nil {
		t.Fatalf("%d bytes, and no error", len(got))
	}
	blob := uncompressedBlob(bytes.Repeat([]byte("blob"), 1<<18))
	e.layer("blob", "", blob)
	f, err := os.OpenFile(filepath.Join(e.d.layerDir("blob"), rawFile), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = fmt.Fprint(f, "more")
	must(t, err)
	must(t, f.Close())
	rc, err = c.Diff("blob", "")
	must(t, err)
	defer rc.Close()
	if got, err := io.ReadAll(rc); err == nil {
		t.Fatalf("%d bytes, and no error", len(got))
	}
}
