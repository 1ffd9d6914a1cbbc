// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"bytes"
	"io"
	"math/rand/v2"
	"path"
	"testing"
	"time"

	"lighter/format"
	"lighter/format/formattest"
)

// imageTar writes the tree of an image as a layer.
func imageTar(t *testing.T, im *formattest.Image) []byte {
	t.Helper()
	var out bytes.Buffer
	x := &exporter{im: im, w: tar.NewWriter(&out), names: map[uint64]string{}}
	x.content = im.Bootstrap.Content(im.Open)
	defer x.content.Close()
	root, err := im.Bootstrap.Inode(im.Bootstrap.Info().RootNid)
	if err == nil {
		err = x.add("", root)
	}
	if err == nil {
		err = x.w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type exporter struct {
	im      *formattest.Image
	w       *tar.Writer
	content *format.Content
	names   map[uint64]string // first name of a hard link, by nid
}

func (x *exporter) add(name string, i format.Inode) error {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: "./" + name, Mode: int64(i.Mode & 0o7777), Uid: int(i.UID), Gid: int(i.GID),
		ModTime: time.Unix(i.Mtime, int64(i.MtimeNsec)), PAXRecords: map[string]string{},
		Devmajor: int64(i.Major()), Devminor: int64(i.Minor()),
	}
	xattrs, err := x.im.Bootstrap.Xattrs(i)
	if err != nil {
		return err
	}
	for _, a := range xattrs {
		h.PAXRecords["SCHILY.xattr."+a.Name] = string(a.Value)
	}
	first, linked := x.names[i.Nid]
	switch {
	case linked:
		h.Typeflag, h.Linkname, h.Devmajor, h.Devminor = tar.TypeLink, first, 0, 0
	case i.IsDir():
		h.Typeflag = tar.TypeDir
	case i.IsSymlink():
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = x.im.Bootstrap.Readlink(i); err != nil {
			return err
		}
	case i.IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, i.Size
	default:
		h.Typeflag = map[uint32]byte{format.ModeChar: tar.TypeChar, format.ModeBlock: tar.TypeBlock, format.ModeFIFO: tar.TypeFifo}[i.Mode&format.ModeType]
	}
	x.names[i.Nid] = h.Name
	if err := x.w.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		p := make([]byte, i.Size)
		if _, err := x.content.ReadAt(i, p, 0); err != nil && err != io.EOF {
			return err
		}
		if _, err := x.w.Write(p); err != nil {
			return err
		}
	}
	if !i.IsDir() {
		return nil
	}
	var failed error
	err = x.im.Bootstrap.Dirents(i, 0, func(_ int, d format.Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		var child format.Inode
		if child, failed = x.im.Bootstrap.Child(i, d); failed == nil {
			failed = x.add(path.Join(name, d.Name), child)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

// variants are ways to build that must not change what a tree is.
func variants() map[string]format.BuildOptions {
	none := format.None
	return map[string]format.BuildOptions{
		"v6": {ChunkSize: 4096}, "v5": {ChunkSize: 4096, Version: 5}, "v5 none": {ChunkSize: 8192, Version: 5, Compressor: &none, Digester: format.SHA256},
		"batch": {ChunkSize: 8192, BatchSize: 8192},
	}
}

func randomStack(t *testing.T, seed uint64) [][]byte {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	m, err := formattest.NewModel(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var layers [][]byte
	for range 2 + r.IntN(3) {
		p, err := formattest.RandomLayer(r, m, 5+r.IntN(60))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, p)
	}
	return layers
}

func readers(layers ...[]byte) []io.Reader {
	var all []io.Reader
	for _, l := range layers {
		all = append(all, bytes.NewReader(l))
	}
	return all
}

// TestBuildAgain builds random images, lists them, builds the listed tree and
// lists that: it must be equal, and building it once more give the same bytes.
func TestBuildAgain(t *testing.T) {
	for name, o := range variants() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				im, err := formattest.Build(readers(randomStack(t, seed)...), o)
				if err != nil {
					t.Fatal(err)
				}
				first := imageTar(t, im)
				again, err := formattest.Build(readers(first), o)
				if err != nil {
					t.Fatal(err)
				}
				if d := formattest.Diff(im.List(t), again.List(t)); d != "" {
					t.Fatalf("seed %d: built again, it is another tree:\n%s", seed, d)
				}
				second := imageTar(t, again)
				last, err := formattest.Build(readers(second), o)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(first, second) || !bytes.Equal(again.Bytes, last.Bytes) {
					t.Errorf("seed %d: the listed tree gives other bytes when built again", seed)
				}
				last.Check(t)
			}
		})
	}
}

// TestMergeInSteps merges stacks at once, and the lower layers first: both must
// give the same bytes.
func TestMergeInSteps(t *testing.T) {
	for name, o := range variants() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(12) {
				im, err := formattest.Build(readers(randomStack(t, seed)...), o)
				if err != nil {
					t.Fatal(err)
				}
				layers := im.MergeLayers(t)
				for k := 1; k < len(layers); k++ {
					lower := mergeBytes(t, layers[:k]...)
					both := mergeBytes(t, append([]format.MergeLayer{{ID: "unused", Bootstrap: openBoot(t, lower)}}, layers[k:]...)...)
					if !bytes.Equal(both, im.Bytes) {
						t.Errorf("seed %d: the lowest %d of %d layers merged first give other bytes", seed, k, len(layers))
					}
				}
			}
		})
	}
}

func mergeBytes(t *testing.T, layers ...format.MergeLayer) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := format.Merge(&out, layers, format.MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openBoot(t *testing.T, p []byte) *format.Bootstrap {
	t.Helper()
	b, err := format.OpenBytes(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVersionsAgree builds random images of all variants and compares what they
// show.
func TestVersionsAgree(t *testing.T) {
	for seed := range uint64(10) {
		stack := randomStack(t, seed+100)
		var want formattest.Listing
		for name, o := range variants() {
			im, err := formattest.Build(readers(stack...), o)
			if err != nil {
				t.Fatal(err)
			}
			l := im.List(t)
			if want == nil {
				want = l
			}
			if d := formattest.Diff(want, l); d != "" {
				t.Errorf("seed %d: %s: %s", seed, name, d)
			}
			im.Check(t)
			if seed == 0 {
				im.CheckWithPeers(t, l)
			}
		}
	}
}
