// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
	"lighter/format/formattest"
)

// TestExportTarCorpus exports every case of the corpus and builds the tar
// again: the tree and its tar are the same as before.
func TestExportTarCorpus(t *testing.T) {
	for _, c := range formattest.Corpus() {
		var in []io.Reader
		for _, files := range c.Layers {
			in = append(in, bytes.NewReader(formattest.Tar(t, files...)))
		}
		im := built(t, in...)
		var first, second bytes.Buffer
		if _, err := ExportTar(&first, im.Bootstrap, im.Open); err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		again := built(t, bytes.NewReader(first.Bytes()))
		want := im.List(t)
		if d := formattest.Diff(want, again.List(t)); d != "" {
			t.Errorf("%s: %s", c.Name, d)
		}
		if _, err := ExportTar(&second, again.Bootstrap, again.Open); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("%s: the second export has other bytes (%v)", c.Name, err)
		}
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := ExportDir(t.Context(), dir, im.Bootstrap, im.Open); err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		got, err := formattest.ListDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if d := formattest.Diff(inherited(want, c.Name), inherited(got, c.Name)); d != "" {
			t.Errorf("%s: directory: %s", c.Name, d)
		}
		if _, err := ExportDir(t.Context(), dir, im.Bootstrap, im.Open); len(got) > 1 && (err == nil || !strings.Contains(err.Error(), "not empty")) {
			t.Errorf("%s: a directory that is not empty: %v", c.Name, err)
		}
	}
}

// inherited leaves out what files take over from a directory's default access
// list, in the one case that has such.
func inherited(l formattest.Listing, name string) formattest.Listing {
	if name == "default access lists" {
		for i := range l {
			delete(l[i].Xattrs, "system.posix_acl_access")
			if len(l[i].Xattrs) == 0 {
				l[i].Xattrs = nil
			}
		}
	}
	return l
}

func built(t *testing.T, layers ...io.Reader) *formattest.Image {
	t.Helper()
	im, err := formattest.Build(layers, format.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// exportImage exports name as an ordinary image into target.
func exportImage(t *testing.T, name, target string) *ImageExport {
	t.Helper()
	ctx := context.Background()
	_, s := open(t, name)
	im, err := OpenImage(ctx, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o, err := im.Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	ref := parse(t, target)
	sink, err := OpenSink(ctx, ref, IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	x, err := ExportImage(ctx, im, o, dir, sink, ref.Tag)
	if err != nil {
		t.Fatalf("export %s: %v", name, err)
	}
	return x
}

func ordinary(t *testing.T, name string) (*Image, *v1.ConfigFile) {
	t.Helper()
	_, s := open(t, name)
	im, err := OpenImage(context.Background(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := im.Config(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return im, config
}

func TestExportImage(t *testing.T) {
	src, config := ordinary(t, goldenLayout(t, "src"))
	layout := "oci:" + t.TempDir() + "/x:"
	convertTo(t, goldenLayout(t, "src"), layout+"kept", Options{KeepTar: true})
	convertTo(t, goldenLayout(t, "src"), layout+"kept-none", Options{KeepTar: true, Index: IndexNone})
	convertTo(t, goldenLayout(t, "src"), layout+"plain", Options{})
	mustCheck(t, layout+"kept")
	copied := "oci:" + t.TempDir() + "/y:copied"
	copyTo(t, layout+"kept", copied)
	for _, c := range []struct {
		name string
		how  ExportHow
	}{
		{layout + "kept", ExportBytes}, {layout + "kept-none", ExportBytes}, {copied, ExportBytes},
		{layout + "plain", ExportTree}, {layout + "plain-boot", ExportMerged}, {goldenLayout(t, "v6-zstd"), ExportTree},
		{goldenLayout(t, "v6-ociref"), ExportOriginal},
	} {
		out := "oci:" + t.TempDir() + "/out:x"
		x := exportImage(t, c.name, out)
		for i, l := range x.Layers {
			if l.How != c.how {
				t.Errorf("%s: layer %d is %s, want %s", c.name, i, l.How, c.how)
			}
			if (c.how == ExportBytes || c.how == ExportOriginal) && l.DiffID != config.RootFS.DiffIDs[i] {
				t.Errorf("%s: layer %d has the diff id %s, want %s", c.name, i, l.DiffID, config.RootFS.DiffIDs[i])
			}
			if c.how == ExportOriginal && l.Digest != src.Spec.Layers[i].Digest {
				t.Errorf("%s: layer %d is %s, want %s", c.name, i, l.Digest, src.Spec.Layers[i].Digest)
			}
		}
		if same := x.Config == src.Spec.Config.Digest; same != (c.how == ExportBytes) {
			t.Errorf("%s: config %s, that of the source is %s", c.name, x.Config, src.Spec.Config.Digest)
		}
		mustCheck(t, out)
		convertTo(t, out, out+"-again", Options{})
		mustList(t, out+"-again")
	}
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	_, s := open(t, from)
	ref := parse(t, to)
	sink, err := OpenSink(context.Background(), ref, IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if _, err := Copy(context.Background(), s, sink, ref.Tag, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestKeepTarCorpus takes the tars of the corpus apart and puts them together.
func TestKeepTarCorpus(t *testing.T) {
	whole := 0
	for _, c := range formattest.Corpus() {
		for _, files := range c.Layers {
			tar := append(formattest.Tar(t, files...), "what follows"...)
			var kept bytes.Buffer
			err := splitTar(&kept, bytes.NewReader(tar))
			if err != nil {
				if !strings.Contains(err.Error(), errTwice.Error()) {
					t.Errorf("%s: %v", c.Name, err)
				}
				continue
			}
			var blob bytes.Buffer
			l, err := format.BuildLayer(&blob, bytes.NewReader(tar), format.BuildOptions{})
			if err != nil {
				t.Fatal(err)
			}
			b, err := format.OpenBytes(l.Bootstrap)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			open := func(format.Blob) (io.ReaderAt, int64, error) {
				return bytes.NewReader(blob.Bytes()), int64(blob.Len()), nil
			}
			if err := joinTar(&got, &kept, hashOf(tar), b, open); err != nil || !bytes.Equal(got.Bytes(), tar) {
				t.Errorf("%s: %v", c.Name, err)
			}
			whole++
		}
	}
	t.Logf("%d layers given back byte for byte", whole)
	if whole < 150 {
		t.Errorf("only %d layers given back", whole)
	}
}
