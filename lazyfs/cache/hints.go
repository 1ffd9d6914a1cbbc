// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
)

// The hint table: a 64-byte header and 2^16 buckets of 8 slots. A slot:
//
//	 0  16  bytes 8 to 23 of the chunk's digest
//	16  8   key of the file set (0: empty slot)
//	24  8   byte offset in its data file
//	32  4   uncompressed size in bytes
//	36  4   zero
//
// The bucket is chosen by bytes 0 to 7 of the digest. The file is sparse, 21 MB
// when full. It is read and written, not mapped: a lookup is one read of 320
// bytes, and a mapping would count as memory and die when the file is cut.
const (
	hintMagic   = "ltrhint1"
	hintHeader  = 64
	hintBuckets = 1 << 16
	hintSlots   = 8
	hintSlot    = 40
	hintBucket  = hintSlots * hintSlot
)

type hintTable struct {
	mu   sync.Mutex
	file *os.File
}

func openHints(path string) (*hintTable, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("hint table: %w", err)
	}
	const size = hintHeader + hintBuckets*hintBucket
	head := make([]byte, hintHeader)
	f.ReadAt(head, 0)
	fi, err := f.Stat()
	if err == nil && (fi.Size() != size || string(head[:8]) != hintMagic) {
		clear(head)
		copy(head, hintMagic)
		if err = f.Truncate(0); err == nil {
			if _, err = f.WriteAt(head, 0); err == nil {
				err = f.Truncate(size)
			}
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("hint table: %w", err)
	}
	return &hintTable{file: f}, nil
}

func (h *hintTable) close() { h.file.Close() }

func bucketOff(digest *[32]byte) int64 {
	return hintHeader + int64(binary.LittleEndian.Uint64(digest[:])%hintBuckets)*hintBucket
}

type hint struct {
	set  uint64
	off  int64
	size uint32
}

// find returns where chunks of this digest and size may lie.
func (h *hintTable) find(digest *[32]byte, size uint32) []hint {
	var b [hintBucket]byte
	if _, err := h.file.ReadAt(b[:], bucketOff(digest)); err != nil {
		return nil
	}
	var found []hint
	for s := b[:]; len(s) > 0; s = s[hintSlot:] {
		if x := decodeHint(s); x.set != 0 && x.size == size && string(s[:16]) == string(digest[8:24]) {
			found = append(found, x)
		}
	}
	return found
}

func decodeHint(s []byte) hint {
	return hint{binary.LittleEndian.Uint64(s[16:]), int64(binary.LittleEndian.Uint64(s[24:])), binary.LittleEndian.Uint32(s[32:])}
}

// put records the place of a chunk. Whoever calls it has just not found it, or
// found it elsewhere, so the new place replaces an older one. live says whether
// a file set still exists.
func (h *hintTable) put(digest *[32]byte, x hint, live func(set uint64) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var b [hintBucket]byte
	off := bucketOff(digest)
	if _, err := h.file.ReadAt(b[:], off); err != nil {
		return
	}
	at := -1
	for i := range hintSlots {
		s := b[i*hintSlot:]
		old := decodeHint(s)
		if string(s[:16]) == string(digest[8:24]) && old.size == x.size && old.set != 0 {
			if old == x {
				return
			}
			at = i
			break
		}
		if at < 0 && !live(old.set) {
			at = i
		}
	}
	if at < 0 {
		at = int(digest[31]) % hintSlots
	}
	s := b[at*hintSlot:][:hintSlot]
	clear(s)
	copy(s, digest[8:24])
	binary.LittleEndian.PutUint64(s[16:], x.set)
	binary.LittleEndian.PutUint64(s[24:], uint64(x.off))
	binary.LittleEndian.PutUint32(s[32:], x.size)
	h.file.WriteAt(s, off+int64(at*hintSlot))
}

// Hint records that a chunk of this digest was written to b at byte off. It is
// a hint: errors do not matter and are not told.
func (b *Blob) Hint(digest [32]byte, off int64, size uint32) {
	d := b.dir
	if d.hints == nil {
		return
	}
	d.hints.put(&digest, hint{b.set.key, off, size}, func(set uint64) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.byKey[set] != nil
	})
}

// Hinted says whether some blob may have a copy of the chunk of this digest and
// size.
func (d *Dir) Hinted(digest [32]byte, size uint32) bool {
	if d.hints == nil {
		return false
	}
	for _, x := range d.hints.find(&digest, size) {
		d.mu.Lock()
		s := d.byKey[x.set]
		d.mu.Unlock()
		if s != nil {
			return true
		}
	}
	return false
}

// Find fills p with what may be a copy of the chunk of this digest, whose size
// is len(p), from any blob; verify says whether it is. It returns false if no
// copy was found.
func (d *Dir) Find(digest [32]byte, p []byte, verify func(p []byte) bool) bool {
	if d.hints == nil {
		return false
	}
	for _, x := range d.hints.find(&digest, uint32(len(p))) {
		if d.readHint(x, p) && verify(p) {
			return true
		}
	}
	return false
}

func (d *Dir) readHint(x hint, p []byte) bool {
	d.mu.Lock()
	s := d.byKey[x.set]
	d.mu.Unlock()
	if s == nil || x.off < 0 {
		return false
	}
	f, err := os.Open(d.path(s.name + ".data"))
	if err != nil {
		return false
	}
	defer f.Close()
	n, _ := f.ReadAt(p, x.off)
	return n == len(p)
}
