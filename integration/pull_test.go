// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"io"
	"os"
	"path/filepath"
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
	if os.Getenv("LIGHTER_BENCH") != "" {
		root, err := RepoRoot()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(root, "docs", "bench", "pull-and-run.txt")
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// An ordinary image is pulled about as fast as by overlay2 itself: the best of
// three pulls each, in turns. The figure of a quiet machine counts (at most
// 1.1, with LIGHTER_BENCH=1, which does not hold yet); on a busy one only gross
// slowness shows.
func TestOrdinaryPull(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	none, err := link.New(e.Registry.Host, link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { none.Close() })
	ref := none.Addr + "/" + Python
	sides := []*Daemon{e.StartDaemon(t, DaemonOptions{Name: "o"}), e.StartLighter(t, DaemonOptions{Name: "d"})}
	best := []time.Duration{time.Hour, time.Hour}
	for range 3 {
		for i, d := range sides {
			best[i] = min(best[i], d.Measure(t, none, ref).Pull)
			d.Docker(t, "rmi", "-f", ref)
		}
	}
	ratio, most := float64(best[1])/float64(best[0]), 2.5
	if os.Getenv("LIGHTER_BENCH") != "" {
		most = 1.1
	}
	t.Logf("overlay2 %v, lighter %v: %.2f", best[0].Round(time.Millisecond), best[1].Round(time.Millisecond), ratio)
	if ratio > most {
		t.Errorf("an ordinary image is pulled in %.2f of overlay2's time, more than %.1f", ratio, most)
	}
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
