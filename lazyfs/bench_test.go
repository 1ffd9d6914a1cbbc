// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"io"
	"testing"

	"lighter/format"
	"lighter/lazyfs/lazyfstest"
)

const benchSize = 64 << 20

// benchImage has one file of text-like bytes.
func benchImage(b *testing.B) *lazyfstest.Image {
	p := lazyfstest.Random(1, benchSize)
	for i := range p {
		p[i] = 'a' + p[i]%16
	}
	return lazyfstest.Build(b, format.BuildOptions{}, map[string][]byte{"f": p})
}

func benchRead(b *testing.B, im *Image, step int) {
	b.Helper()
	ino := inode(b, im, "f")
	p := make([]byte, step)
	for off := int64(0); off < benchSize; off += int64(step) {
		if _, err := im.ReadAt(b.Context(), ino, p, off); err != nil && err != io.EOF {
			b.Fatal(err)
		}
	}
}

// BenchmarkCold reads what must be fetched, from a store in memory.
func BenchmarkCold(b *testing.B) {
	g := benchImage(b)
	b.SetBytes(benchSize)
	for b.Loop() {
		b.StopTimer()
		s := newStore(b, b.TempDir(), quick())
		im := openImage(b, s, specOf(g))
		b.StartTimer()
		benchRead(b, im, 128<<10)
		s.Close()
	}
}

// BenchmarkCached reads what the cache files have, verifying it.
func BenchmarkCached(b *testing.B) {
	g := benchImage(b)
	o := quick()
	o.MemoryLimit = 8 << 20
	im := openImage(b, newStore(b, b.TempDir(), o), specOf(g))
	benchRead(b, im, 1<<20)
	b.SetBytes(benchSize)
	for b.Loop() {
		benchRead(b, im, 128<<10)
	}
}

// BenchmarkMemory reads verified chunks from memory, 4 KiB at a time.
func BenchmarkMemory(b *testing.B) {
	g := benchImage(b)
	o := quick()
	o.MemoryLimit = 2 * benchSize
	im := openImage(b, newStore(b, b.TempDir(), o), specOf(g))
	benchRead(b, im, 1<<20)
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		benchRead(b, im, 4096)
	}
}
