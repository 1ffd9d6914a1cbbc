// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"io"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"lighter/integration/link"
)

// numpy is the program that the figures are about.
var numpy = []string{"python3", "-c", "import numpy; print(numpy.arange(6).sum())"}

// TestPullAndRun puts classic and lazy pull and run of an image of over 1 GB
// side by side, over a link of 1 Gbit/s and 2 ms. With LIGHTER_BENCH=1 the
// figures are written to docs/bench.
func TestPullAndRun(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Tiny, Big)
	start := time.Now()
	e.convert(t, Big)
	t.Logf("converted in %v", time.Since(start).Round(100*time.Millisecond))
	k, err := link.New(e.Registry.Host, link.Gigabit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	unpacked, packed := imageSize(t, e.Registry.Ref(Big))
	if unpacked < 1e9 {
		t.Fatalf("the image has only %s", Megabytes(unpacked))
	}
	classic := e.StartDaemon(t, DaemonOptions{Name: "o"})
	lighter := e.StartLighter(t, DaemonOptions{Name: "d"})

	c := classic.Measure(t, k, k.Addr+"/"+Big, numpy...)
	one := lighter.Measure(t, k, k.Addr+"/"+Tiny)
	l := lighter.Measure(t, k, k.Addr+"/"+Big+":lazy", numpy...)
	again := lighter.Measure(t, k, k.Addr+"/"+Big+":lazy", numpy...)

	text := Table([]string{"one file, lighter", "classic (overlay2)", "lazy (lighter)", "lazy, again"}, []Figures{one, c, l, again})
	text += "image: " + Megabytes(unpacked) + " unpacked, " + Megabytes(packed) + " as layers; link: 1 Gbit/s, 2 ms\n"
	t.Log("\n" + text)
	if share := float64(l.PullBytes) / float64(packed); share >= 0.02 {
		t.Errorf("the lazy pull moved %.2f %% of the image's bytes", 100*share)
	}
	if beyond := l.Pull - one.Pull; beyond >= time.Second {
		t.Errorf("the lazy pull took %v beyond that of a one-file image", beyond)
	}
	if ratio := float64(l.Total()) / float64(c.Total()); ratio > 0.2 {
		t.Errorf("lazy pull and first output took %.2f of the classic time", ratio)
	}
	keepFigures(t, "pull-and-run.txt", text)
}

// imageSize returns the bytes of an image's layers, unpacked and as they are stored.
func imageSize(t *testing.T, ref string) (unpacked, packed int64) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			t.Fatal(err)
		}
		packed += n
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		n, err = io.Copy(io.Discard, rc)
		rc.Close()
		if err != nil {
			t.Fatal(err)
		}
		unpacked += n
	}
	return unpacked, packed
}
