// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"compress/flate"
	"testing"
)

// huffman adds a block of data with the fixed codes of RFC 1951: first a match
// of three bytes at distance four, if there is a dictionary, then literals.
func (w *bitWriter) huffman(data []byte, match, final bool) {
	head := bitString{{0b010, 3}}
	if final {
		head[0].value |= 1
	}
	w.add(head)
	code := func(c, n uint) { // the highest bit comes first
		for k := range n {
			w.add(bitString{{uint64(c >> (n - 1 - k) & 1), 1}})
		}
	}
	if match {
		code(1, 7)
		code(3, 5)
	}
	for _, c := range data {
		if c < 144 {
			code(0x30+uint(c), 8)
		} else {
			code(0x190+uint(c)-144, 9)
		}
	}
	code(0, 7)
}

// stored adds a block of data as it is, which begins at a whole byte.
func (w *bitWriter) stored(data []byte, final bool) {
	head := bitString{{0, 3}}
	if final {
		head[0].value = 1
	}
	w.add(head)
	w.n = uint(len(w.p)) * 8
	n := uint64(len(data))
	w.add(bitString{{n, 16}, {^n & 0xffff, 16}})
	w.p = append(w.p, data...)
	w.n = uint(len(w.p)) * 8
}

// zranPiece returns a piece that begins with bits pending bits and inflates
// to data: the first half, or if there is a dictionary all but three bytes of
// it, by Huffman codes, the rest stored.
func zranPiece(data, dict []byte, bits uint) (u zranUnit, stored []byte) {
	var w bitWriter
	if bits > 0 {
		w.add(bitString{{0x55, 8 - bits}}) // of the block before
	}
	half, skip := len(data)/2, 0
	if dict != nil {
		skip = 3
	}
	w.huffman(data[min(skip, half):half], dict != nil, false)
	w.stored(data[half:], true)
	u = zranUnit{dict: dict, bits: bits}
	if bits > 0 {
		u.last = w.p[0]
		return u, w.p[1:]
	}
	return u, w.p
}

func gzipped(t testing.TB, data []byte) []byte {
	enc, err := Gzip.encoder(0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := enc(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestZranBits begins a piece at every bit of a byte, with a dictionary and
// without.
func TestZranBits(t *testing.T) {
	for _, dict := range [][]byte{nil, bytes.Repeat([]byte("earlier output "), 1000)} {
		for _, data := range codecInputs() {
			if len(data) < 15 || len(data) > 60000 {
				continue
			}
			if dict != nil {
				copy(data, dict[len(dict)-4:len(dict)-1])
			}
			for bits := range uint(8) {
				u, stored := zranPiece(data, dict, bits)
				dst := make([]byte, len(data))
				if err := u.inflate(dst, stored); err != nil || !bytes.Equal(dst, data) {
					t.Fatalf("%d bits, %d bytes: wrong (%v)", bits, len(data), err)
				}
				if err := u.inflate(dst[:7], stored[:len(stored)-3]); err != nil || !bytes.Equal(dst[:7], data[:7]) {
					t.Fatalf("%d bits, %d bytes: wrong beginning (%v)", bits, len(data), err)
				}
				if err := u.inflate(make([]byte, 1+len(data)), stored); err == nil {
					t.Fatalf("%d bits, %d bytes: one byte more than there is", bits, len(data))
				}
			}
		}
	}
}

// TestZranMembers has the end of one gzip member and the next ones in a unit.
func TestZranMembers(t *testing.T) {
	for bits := range uint(8) {
		want := []byte("end of the first member, then others")
		u, stored := zranPiece(want[:25], nil, bits)
		stored = append(stored, 1, 2, 3, 4, 5, 6, 7, 8) // trailer, not looked at
		stored = append(stored, gzipped(t, want[25:30])...)
		stored = append(stored, gzipped(t, want[30:])...)
		got := make([]byte, len(want))
		if err := u.inflate(got, stored); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bits: %q (%v)", bits, got, err)
		}
	}
}

// FuzzZran inflates units of all kinds.
func FuzzZran(f *testing.F) {
	var seeds [][]any
	for bits := range uint(8) {
		u, stored := zranPiece([]byte("dictext, some text, some text"), []byte("dict"), bits)
		seeds = append(seeds, []any{u.dict, u.last, uint8(bits), uint16(29), stored})
	}
	seed(f, seeds...)
	f.Fuzz(func(t *testing.T, dict []byte, last, bits uint8, size uint16, stored []byte) {
		u := zranUnit{dict: dict[:min(len(dict), 32768)], last: last, bits: uint(bits % 8)}
		one, two := make([]byte, size), make([]byte, size)
		if err := u.inflate(one, stored); err != nil {
			return
		}
		if err := u.inflate(two, stored); err != nil || !bytes.Equal(one, two) {
			t.Fatalf("second time differs: %v", err)
		}
		if u.bits == 0 {
			z := flate.NewReaderDict(bytes.NewReader(stored), u.dict)
			defer z.Close()
			three := make([]byte, size)
			if n, _ := z.Read(three); !bytes.Equal(one[:n], three[:n]) {
				t.Fatal("not what flate gives")
			}
		}
	})
}
