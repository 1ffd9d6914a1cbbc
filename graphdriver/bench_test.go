// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/v2/daemon/graphdriver/overlay2"
	"github.com/moby/sys/user"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
	"golang.org/x/sys/unix"
)

// benchSize is 64 MiB, or what LIGHTER_BENCH_MB says.
func benchSize() int {
	mb, err := strconv.Atoi(os.Getenv("LIGHTER_BENCH_MB"))
	if err != nil {
		mb = 64
	}
	return mb << 20
}

// cpuTime is what this process has used, which tells more than the clock on a busy machine.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchTar is a layer with sizes as in a distribution, or the file that LIGHTER_BENCH_TAR names.
func benchTar(b *testing.B) string {
	b.Helper()
	if name := os.Getenv("LIGHTER_BENCH_TAR"); name != "" {
		return name
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 8<<20)
	for i := range noise {
		noise[i] = "etaoin shrdlu\n\x00\x01\xff"[rnd.IntN(17)]
	}
	var files []file
	total := 0
	for i := 0; total < benchSize(); i++ {
		if i%25 == 0 {
			files = append(files, dir(fmt.Sprintf("usr/share/d%d/", i/25)))
		}
		size := 200 << rnd.IntN(8)
		if i%200 == 0 {
			size = 1 << (18 + rnd.IntN(5))
		}
		off := rnd.IntN(len(noise) - size)
		files = append(files, reg(fmt.Sprintf("usr/share/d%d/file-%d", i/25, i), string(noise[off:off+size])))
		total += size
	}
	name := filepath.Join(b.TempDir(), "bench.tar")
	must(b, os.WriteFile(name, makeTar(b, files...), 0o600))
	return name
}

// BenchmarkApplyDiff compares ways from a stream to an unpacked layer: overlay2 alone; overlay2 behind tar-split, which is
// what dockerd does with its own overlay2; and ours, called directly and through the socket.
func BenchmarkApplyDiff(b *testing.B) {
	name := benchTar(b)
	fi, err := os.Stat(name)
	must(b, err)
	stream := func() *os.File { return must2(os.Open(name)) }
	run := func(how string, apply func(id string, r io.Reader) error, remove func(id string) error) {
		b.Run(how, func(b *testing.B) {
			b.SetBytes(fi.Size())
			var cpu time.Duration
			for i := range b.N {
				id := fmt.Sprintf("bench%d", i)
				f := stream()
				before := cpuTime()
				// an *os.File would let go of the reader's own habits
				if err := apply(id, struct{ io.Reader }{f}); err != nil {
					b.Fatal(err)
				}
				f.Close()
				cpu += cpuTime() - before
				b.StopTimer()
				must(b, remove(id))
				b.StartTimer()
			}
			b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
		})
	}
	plain, err := overlay2.Init(filepath.Join(b.TempDir(), "plain"), nil, user.IdentityMapping{})
	must(b, err)
	run("overlay2", func(id string, r io.Reader) error {
		must(b, plain.Create(id, "", nil))
		_, err := plain.ApplyDiff(id, "", r)
		return err
	}, plain.Remove)
	run("overlay2+tarsplit", func(id string, r io.Reader) error {
		must(b, plain.Create(id, "", nil))
		var split bytes.Buffer
		tr, done, err := asm.NewInputTarStreamWithDone(r, storage.NewJSONPacker(&split), nil)
		must(b, err)
		if _, err := plain.ApplyDiff(id, "", tr); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return err
		}
		return <-done
	}, plain.Remove)
	e := newEnv(b)
	run("lighter", func(id string, r io.Reader) error {
		must(b, e.d.Create(id, "", CreateOptions{}))
		_, err := e.d.ApplyDiff(id, "", r)
		return err
	}, e.d.Remove)
	c := e.serve()
	run("lighter-socket", func(id string, r io.Reader) error {
		must(b, c.Create(id, "", nil))
		_, err := c.ApplyDiff(id, "", r)
		return err
	}, c.Remove)
}

// BenchmarkSplit is the part of BenchmarkApplyDiff that overlay2 alone does not do, without the disk.
func BenchmarkSplit(b *testing.B) {
	data := must2(os.ReadFile(benchTar(b)))
	run := func(how string, split func(r io.Reader) error) {
		b.Run(how, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			before := cpuTime()
			for range b.N {
				if err := split(bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpuTime()-before).Seconds()/float64(b.N), "cpu-s/op")
		})
	}
	run("tarsplit", func(r io.Reader) error {
		var split bytes.Buffer
		z := gzip.NewWriter(&split) // as dockerd keeps it
		tr, done, err := asm.NewInputTarStreamWithDone(r, storage.NewJSONPacker(z), nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return err
		}
		return errors.Join(<-done, z.Close())
	})
	run("lighter", func(r io.Reader) error {
		enc, err := zstd.NewWriter(io.Discard, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		in := newStream(r)
		defer in.stop()
		if err := disassemble(in, storage.NewJSONPacker(enc), discardEntries{io.Discard}); err != nil {
			return err
		}
		_, err = in.finish()
		return errors.Join(err, enc.Close())
	})
}

type discardEntries struct{ io.Writer }

func (discardEntries) Begin(*tar.Header) error { return nil }
func (discardEntries) End() error              { return nil }
