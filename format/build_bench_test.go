// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"lighter/format"
	"lighter/format/formattest"
)

// benchTar returns an uncompressed tar of real files: $LIGHTER_BENCH_TAR, or
// the Go installation.
func benchTar(b *testing.B) string {
	b.Helper()
	if name := os.Getenv("LIGHTER_BENCH_TAR"); name != "" {
		return name
	}
	name := filepath.Join(b.TempDir(), "go.tar")
	out, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := tar.NewWriter(buffered)
	err = w.AddFS(noLinks{os.DirFS(runtime.GOROOT())})
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		b.Fatal(err)
	}
	return name
}

// noLinks hides symbolic links, which AddFS may refuse.
type noLinks struct{ fs.FS }

func (n noLinks) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(n.FS, name)
	var out []fs.DirEntry
	for _, e := range all {
		if e.IsDir() || e.Type().IsRegular() {
			out = append(out, e)
		}
	}
	return out, err
}

// BenchmarkAgainstNydusImage builds the same tar in turn with the reference
// builder and with this package, at zstd's default level, 3, and at ours. It
// tells the quotient of the times, and the memory and sizes of both.
func BenchmarkAgainstNydusImage(b *testing.B) {
	tool := formattest.FindPeer("nydus-image")
	if tool == "" {
		b.Skip("nydus-image is not installed")
	}
	name := benchTar(b)
	for _, level := range []int{0, 3} {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			var ours, theirs built
			for b.Loop() {
				theirs.add(peerBuild(b, tool, name))
				ours.add(ownBuild(b, name, level))
			}
			b.ReportMetric(ours.wall.Seconds()/theirs.wall.Seconds(), "ours/theirs")
			b.ReportMetric(ours.cpu.Seconds()/theirs.cpu.Seconds(), "cpu-ratio")
			b.ReportMetric(ours.wall.Seconds()/float64(b.N), "s/ours")
			b.ReportMetric(theirs.wall.Seconds()/float64(b.N), "s/theirs")
			b.ReportMetric(float64(ours.size)/float64(theirs.size), "size-ratio")
			b.ReportMetric(float64(ours.memory)/(1<<20), "MiB-peak")
		})
	}
}

// built is what builds took: together, but for the size of one blob and the
// most memory of any.
type built struct {
	wall, cpu    time.Duration
	size, memory int64 // bytes
}

func (x *built) add(y built) {
	x.wall, x.cpu = x.wall+y.wall, x.cpu+y.cpu
	x.size, x.memory = y.size, max(x.memory, y.memory)
}

func peerBuild(b *testing.B, tool, name string) built {
	b.Helper()
	blob := filepath.Join(b.TempDir(), "blob")
	return timed(b, blob, exec.Command(tool, "create", "--log-level", "error", "--type", "tar-rafs", "--whiteout-spec", "none", "--blob-inline-meta", "--blob", blob, name))
}

// timed runs a program that writes a blob.
func timed(b *testing.B, blob string, cmd *exec.Cmd) built {
	b.Helper()
	begin := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	x := built{wall: time.Since(begin), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	x.memory = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	fi, err := os.Stat(blob)
	if err != nil {
		b.Fatal(err)
	}
	x.size = fi.Size()
	os.Remove(blob)
	return x
}

// ownBuild runs this test binary as a process of its own, whose memory is then
// that of the build alone.
func ownBuild(b *testing.B, name string, level int) built {
	b.Helper()
	blob := filepath.Join(b.TempDir(), "blob")
	cmd := exec.Command(os.Args[0], "-test.run", "^TestBuildHelper$")
	cmd.Env = append(os.Environ(), "LIGHTER_BUILD="+name, "LIGHTER_BLOB="+blob, fmt.Sprint("LIGHTER_LEVEL=", level))
	return timed(b, blob, cmd)
}

// TestBuildHelper is the process that ownBuild starts.
func TestBuildHelper(t *testing.T) {
	name := os.Getenv("LIGHTER_BUILD")
	if name == "" {
		return
	}
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(os.Getenv("LIGHTER_BLOB"))
	if err != nil {
		t.Fatal(err)
	}
	var level int
	fmt.Sscan(os.Getenv("LIGHTER_LEVEL"), &level)
	if _, err := format.BuildLayer(out, io.Reader(in), format.BuildOptions{Level: level}); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
