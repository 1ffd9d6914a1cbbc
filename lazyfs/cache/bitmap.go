// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"os"
)

// The map file: 64 bytes of header, then ceil(chunks/8) bytes, chunk 0 in the
// lowest bit of the first. Little-endian.
//
//	 0  8   magic
//	 8  4   chunks
//	12  4   zero
//	16  8   uncompressed size
//	24  32  sha256 of the file set's name
//	56  8   zero
const (
	mapMagic  = "ltrmap01"
	mapHeader = 64
)

// bitmap is the ready bits of one blob, in memory and in their file.
type bitmap struct {
	file  *os.File
	n     uint32 // bits
	count uint32 // bits that are set
	b     []byte
}

func mapHead(name string, g Geometry) []byte {
	h := make([]byte, mapHeader)
	copy(h, mapMagic)
	binary.LittleEndian.PutUint32(h[8:], g.Chunks)
	binary.LittleEndian.PutUint64(h[16:], uint64(g.Size))
	sum := sha256.Sum256([]byte(name))
	copy(h[24:], sum[:])
	return h
}

// openBitmap reads the bits, or starts with none when keep is false or the file
// is not what this blob's should be.
func openBitmap(path, name string, g Geometry, keep bool) (*bitmap, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	m := &bitmap{file: f, n: g.Chunks, b: make([]byte, (g.Chunks+7)/8)}
	head := mapHead(name, g)
	got := make([]byte, mapHeader+len(m.b))
	n, _ := f.ReadAt(got, 0)
	if fi, err := f.Stat(); keep && err == nil && n == len(got) && fi.Size() == int64(n) && string(got[:mapHeader]) == string(head) {
		copy(m.b, got[mapHeader:])
		if r := g.Chunks % 8; r != 0 {
			m.b[len(m.b)-1] &= 1<<r - 1
		}
		for _, x := range m.b {
			m.count += uint32(bits.OnesCount8(x))
		}
		return m, nil
	}
	clear(got)
	copy(got, head)
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt(got, 0)
		if err == nil {
			return m, nil
		}
		f.Close()
		return nil, err
	} else {
		f.Close()
		return nil, err
	}
}

func (m *bitmap) get(i uint32) bool { return i < m.n && m.b[i/8]&(1<<(i%8)) != 0 }

// set changes one bit in memory and in the file. If the file cannot be written
// the bit changes in memory all the same, and the error says so.
func (m *bitmap) set(i uint32, v bool) error {
	if i >= m.n || m.get(i) == v {
		return nil
	}
	m.b[i/8] ^= 1 << (i % 8)
	if v {
		m.count++
	} else {
		m.count--
	}
	_, err := m.file.WriteAt(m.b[i/8:i/8+1], mapHeader+int64(i/8))
	return err
}
