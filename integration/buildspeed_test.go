// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"lighter/format/formattest"
)

// exportCost is what the export of a built image took.
type exportCost struct {
	elapsed time.Duration
	cpu     float64 // seconds, with those of the builder that upstream starts
	memory  int64   // bytes of the daemon at most, above those of the idle one
}

// TestBuildSpeed measures, with LIGHTER_BENCH=1, how long the export of one
// layer of Debian and Python takes by compression: whole process, a fresh
// daemon each, the uncompressed layer there already, the best of three in turns.
func TestBuildSpeed(t *testing.T) {
	if os.Getenv("LIGHTER_BENCH") == "" {
		t.Log("NOT MEASURED: make bench-build does it")
		return
	}
	e := New(t)
	store, err := e.imageStore(t)
	if err != nil {
		t.Fatal(err)
	}
	im, err := imageByName(store, Python)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := mutate.Extract(im)
	defer files.Close()
	size := writeFile(t, filepath.Join(dir, "rootfs.tar"), files)
	writeFile(t, filepath.Join(dir, "Dockerfile"), strings.NewReader("FROM scratch\nADD rootfs.tar /\n"))
	sides := []struct{ name, compression, bin, builder string }{
		{name: "gzip", compression: "gzip"}, {name: "zstd", compression: "zstd"}, {name: "nydus (ours)", compression: "nydus"},
	}
	if builder := formattest.FindPeer("nydus-image"); builder != "" {
		bin := buildTool(t, "buildkitd-nydus-0.33.1", "buildkitd", "github.com/moby/buildkit/cmd/buildkitd", "-tags", "nydus", "-ldflags", "-s -w")
		sides = append(sides, struct{ name, compression, bin, builder string }{"nydus (upstream)", "nydus", bin, builder})
	} else {
		t.Log("NOT MEASURED: upstream's nydus; make peers builds its builder")
	}
	best := map[string]exportCost{}
	for range 3 {
		for _, s := range sides {
			b := e.newBuildKit(t)
			b.bin = s.bin
			if s.builder != "" {
				b.vars = []string{"NYDUS_BUILDER=" + s.builder}
			}
			c := b.cost(t, dir, s.compression)
			if was, ok := best[s.name]; !ok || c.elapsed < was.elapsed {
				best[s.name] = c
			}
			if err := os.RemoveAll(b.Root); err != nil {
				t.Fatal(err)
			}
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%-20s %9s %9s %12s\n", "", "time", "CPU", "memory")
	for _, s := range sides {
		c := best[s.name]
		fmt.Fprintf(&text, "%-20s %7.2f s %7.2f s %12s\n", s.name, c.elapsed.Seconds(), c.cpu, Megabytes(c.memory))
	}
	fmt.Fprintf(&text, "export of one layer, %s of Debian and Python, best of 3; memory: of the daemon, above idle\n", Megabytes(size))
	t.Log("\n" + text.String())
	ours := best["nydus (ours)"]
	if z := best["zstd"]; ours.elapsed > z.elapsed {
		t.Errorf("ours took %v, zstd %v", ours.elapsed, z.elapsed)
	}
	if u, ok := best["nydus (upstream)"]; ok && ours.elapsed.Seconds() > 0.65*u.elapsed.Seconds() {
		t.Errorf("ours took %v, upstream's nydus %v", ours.elapsed, u.elapsed)
	}
	if ours.memory > 300e6 {
		t.Errorf("ours took %d bytes of memory", ours.memory)
	}
	root, err := RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "docs", "bench", "build.txt"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func writeFile(t *testing.T, name string, r io.Reader) int64 {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

// cost builds with one daemon, and measures the export with the next.
func (b *BuildKit) cost(t *testing.T, dir, compression string) (c exportCost) {
	t.Helper()
	output := "type=image,name=a.example/speed,store=false,oci-mediatypes=true,compression="
	b.Start(t)
	defer b.Stop(t)
	b.Build(t, dir, output+"uncompressed")
	b.Stop(t)
	b.Start(t)
	idle, cpu := b.memory(t, "VmRSS:"), b.cpu(t)
	start := time.Now()
	b.Build(t, dir, output+compression+",force-compression=true")
	c.elapsed = time.Since(start)
	c.cpu = b.cpu(t) - cpu
	c.memory = b.memory(t, "VmHWM:") - idle
	return c
}

func (b *BuildKit) memory(t *testing.T, key string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kb int64
	if _, err := fmt.Sscan(lineOf(string(status), key), &kb); err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// cpu is the daemon's time in seconds so far, with that of children which have ended.
func (b *BuildKit) cpu(t *testing.T) float64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	sum := 0.0
	for _, field := range strings.Fields(rest)[11:15] {
		var ticks float64
		if _, err := fmt.Sscan(field, &ticks); err != nil {
			t.Fatal(err)
		}
		sum += ticks / 100 // USER_HZ
	}
	return sum
}
