// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"encoding/binary"
	"io"
	"runtime"
	"testing"

	"lighter/format"
)

// TestBuildMemory builds a layer far larger than the memory it may take.
func TestBuildMemory(t *testing.T) {
	const limit = 64 << 20
	none := format.None
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeLarge(w, 400<<20)) }()
	before := liveHeap()
	watch := &watcher{}
	l, err := format.BuildLayer(watch, r, format.BuildOptions{Compressor: &none, Workers: 4})
	if err != nil {
		t.Fatal(err)
	}
	grown := int64(watch.peak) - int64(before)
	t.Logf("%d bytes built, the heap grew by at most %d", l.Size, grown)
	if grown > limit {
		t.Errorf("the heap grew by %d bytes, more than %d", grown, limit)
	}
}

// liveHeap is the number of bytes on the heap that something refers to.
func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// watcher looks at the heap now and then while it is written to.
type watcher struct {
	written int
	peak    uint64
}

func (w *watcher) Write(p []byte) (int, error) {
	if w.written += len(p); w.written > 40<<20 {
		w.written = 0
		w.peak = max(w.peak, liveHeap())
	}
	return len(p), nil
}

// writeLarge writes a tar of one file of the size, no two chunks of which are
// equal.
func writeLarge(w io.Writer, size int64) error {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Name: "large", Size: size, Mode: 0o644}); err != nil {
		return err
	}
	block := make([]byte, 1<<16)
	for off := int64(0); off < size; off += int64(len(block)) {
		binary.LittleEndian.PutUint64(block, uint64(off))
		if _, err := t.Write(block[:min(int64(len(block)), size-off)]); err != nil {
			return err
		}
	}
	return t.Close()
}
