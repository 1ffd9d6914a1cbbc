// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a geometry; the RAFS v6 blob table allows no more.
const (
	maxChunks = 1 << 24
	maxSize   = 1 << 44
)

// Geometry is the shape of a blob as an image describes it.
type Geometry struct {
	Chunks uint32 // number of chunks, 1 to 2^24
	Size   int64  // uncompressed address space in bytes, 1 to 2^44
}

func (g Geometry) check() error {
	if g.Chunks == 0 || g.Chunks > maxChunks {
		return fmt.Errorf("chunk count %d out of range", g.Chunks)
	}
	if g.Size <= 0 || g.Size > maxSize {
		return fmt.Errorf("uncompressed size %d out of range", g.Size)
	}
	return nil
}

// setName is the base name of a file set. Ids come from images, so only those
// that are plainly a digest are taken over.
func setName(id string, g Geometry) string {
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != sha256.Size || hex.EncodeToString(raw) != id {
		sum := sha256.Sum256([]byte(id))
		id = "x" + hex.EncodeToString(sum[:])
	}
	return fmt.Sprintf("%s.%x-%x", id, g.Chunks, g.Size)
}

// nameKey is the short name of a file set in the hint table.
func nameKey(name string) uint64 {
	sum := sha256.Sum256([]byte(name))
	return binary.LittleEndian.Uint64(sum[:])
}

// Blob is the open file set of one blob. See the package text for what its
// contents are worth.
type Blob struct {
	dir   *Dir
	set   *fileSet
	geo   Geometry
	data  *os.File
	alloc atomic.Int64 // bytes on disk, estimated between looks

	mu     sync.RWMutex
	closed bool
	bits   *bitmap
	recent map[uint32]extent // chunks used since swept; nil without a limit
	swept  time.Time
}

// extent is a part of the data file, in bytes.
type extent struct{ off, size int64 }

// openBlob opens or creates both files. Bits are forgotten when the data file
// does not have the length that it was made with.
func openBlob(d *Dir, s *fileSet, g Geometry) (*Blob, error) {
	data, err := openRegular(d.path(s.name + ".data"))
	if err != nil {
		return nil, err
	}
	size := (g.Size + 4095) &^ 4095
	fi, err := data.Stat()
	whole := err == nil && fi.Size() == size
	if err == nil && !whole {
		if err = data.Truncate(0); err == nil {
			err = data.Truncate(size)
		}
	}
	var bits *bitmap
	if err == nil {
		bits, err = openBitmap(d.path(s.name+".map"), s.name, g, whole)
	}
	if err != nil {
		data.Close()
		return nil, err
	}
	b := &Blob{dir: d, set: s, geo: g, data: data, bits: bits, swept: time.Now()}
	if d.limit > 0 {
		b.recent = map[uint32]extent{}
	}
	b.alloc.Store(diskSize(d.path(s.name + ".data")))
	// So that a crash does not make it look unused.
	now := time.Now()
	os.Chtimes(bits.file.Name(), now, now)
	return b, nil
}

// openRegular opens a file for reading and writing, creating it, and refuses
// what is not a plain file.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	return f, nil
}

// Ready says whether chunk i was written at some time.
func (b *Blob) Ready(i uint32) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.bits.get(i)
}

// Complete says whether every chunk of the blob was written at some time.
func (b *Blob) Complete() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.bits.count == b.geo.Chunks
}

// ReadyCount is the number of chunks that were written at some time.
func (b *Blob) ReadyCount() uint32 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.bits.count
}

// ReadAt fills p from byte off of the uncompressed address space. What it
// reads may be anything: the caller compares digests.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > b.geo.Size-int64(len(p)) {
		return 0, fmt.Errorf("cache read of %d bytes at %d: blob has %d: %w", len(p), off, b.geo.Size, io.ErrUnexpectedEOF)
	}
	n, err := b.data.ReadAt(p, off)
	if errors.Is(err, os.ErrClosed) {
		err = ErrClosed
	}
	return n, err
}

// Put writes the verified chunk i at byte off and then sets its bit. On an
// error the bit stays as it was; when the disk is full, blobs that nobody has
// open are evicted in the background.
func (b *Blob) Put(i uint32, off int64, p []byte) error {
	if off < 0 || off > b.geo.Size-int64(len(p)) || i >= b.geo.Chunks {
		return fmt.Errorf("cache write of chunk %d, %d bytes at %d: beyond the blob's %d chunks, %d bytes", i, len(p), off, b.geo.Chunks, b.geo.Size)
	}
	if _, err := b.data.WriteAt(p, off); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			b.dir.full()
		}
		return fmt.Errorf("cache chunk %d: %w", i, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if !b.bits.get(i) {
		b.alloc.Add((int64(len(p)) + 4095) &^ 4095)
		if b.dir.limit > 0 {
			b.dir.awake()
		}
	}
	if err := b.bits.set(i, true); err != nil {
		return fmt.Errorf("cache chunk %d: %w", i, err)
	}
	b.use(i, off, int64(len(p)))
	return nil
}

// Use notes that the size bytes of chunk i at byte off were of use, so that
// eviction spares them for a while.
func (b *Blob) Use(i uint32, off, size int64) {
	if b.dir.limit > 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.use(i, off, size)
	}
}

func (b *Blob) use(i uint32, off, size int64) {
	if b.recent != nil {
		b.recent[i] = extent{off, size}
	}
}

// Drop clears the bit of a chunk whose bytes proved to be wrong.
func (b *Blob) Drop(i uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	return b.bits.set(i, false)
}

// Close gives back one reference that Dir.Blob gave.
func (b *Blob) Close() { b.dir.release(b.set) }

// close ends the files and returns the bytes on disk. The map's modification
// time says when the blob was last used.
func (b *Blob) close(used time.Time) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return b.alloc.Load()
	}
	b.closed = true
	os.Chtimes(b.bits.file.Name(), used, used)
	b.bits.file.Close()
	b.data.Close()
	return diskSize(b.data.Name())
}
