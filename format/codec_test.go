// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"math/rand"
	"testing"
)

func codecInputs() [][]byte {
	rnd := rand.New(rand.NewSource(2))
	var in [][]byte
	for _, n := range []int{1, 2, 15, 16, 17, 4095, 4096, 4097, 1 << 16, 1<<20 - 1, 1 << 20} {
		random, text := make([]byte, n), make([]byte, n)
		rnd.Read(random)
		for i := range text {
			text[i] = "lighter than before\n"[i%20] + byte(i>>12)
		}
		in = append(in, make([]byte, n), random, text)
	}
	return in
}

func TestCodecRoundTrip(t *testing.T) {
	for c := None; c <= Zstd; c++ {
		enc, err := c.encoder(0)
		if err != nil {
			t.Fatal(err)
		}
		for i, in := range codecInputs() {
			stored, err := enc([]byte("head"), in)
			if err != nil {
				t.Fatalf("%s: input %d: %v", c, i, err)
			}
			again, err := enc(nil, in)
			if err != nil || !bytes.Equal(again, stored[4:]) || string(stored[:4]) != "head" {
				t.Fatalf("%s: input %d: second encoding differs (%v)", c, i, err)
			}
			out := make([]byte, len(in))
			if err := c.decode(out, again); err != nil || !bytes.Equal(in, out) {
				t.Fatalf("%s: input %d of %d bytes: not what was encoded (%v)", c, i, len(in), err)
			}
		}
	}
}

// TestCodecWrongSize expects that a declared size that is one byte off fails,
// and that nothing is written behind the destination.
func TestCodecWrongSize(t *testing.T) {
	for c := None; c <= Zstd; c++ {
		enc, err := c.encoder(0)
		if err != nil {
			t.Fatal(err)
		}
		for i, in := range codecInputs() {
			stored, err := enc(nil, in)
			if err != nil {
				t.Fatal(err)
			}
			buf := bytes.Repeat([]byte{0xa5}, len(in)+64)
			if err := c.decode(buf[:len(in)-1], stored); err == nil {
				t.Errorf("%s: input %d: decoded into one byte less", c, i)
			}
			if err := c.decode(buf[:len(in)+1], stored); err == nil {
				t.Errorf("%s: input %d: decoded into one byte more", c, i)
			}
			if !bytes.Equal(buf[len(in)+1:], bytes.Repeat([]byte{0xa5}, 63)) {
				t.Errorf("%s: input %d: wrote behind the destination", c, i)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for c := None; c <= Zstd; c++ {
		if got, err := ParseCompressor(c.String()); err != nil || got != c {
			t.Errorf("%s parses as %v, %v", c, got, err)
		}
	}
	for _, d := range []Digester{Blake3, SHA256} {
		if got, err := ParseDigester(d.String()); err != nil || got != d {
			t.Errorf("%s parses as %v, %v", d, got, err)
		}
		h := d.New()
		h.Write([]byte("abc"))
		if sum := d.Sum([]byte("abc")); !bytes.Equal(h.Sum(nil), sum[:]) {
			t.Errorf("%s: two ways, two digests", d)
		}
	}
	if Compressor(4).Valid() || Digester(2).Valid() {
		t.Error("unknown numbers are valid")
	}
	if _, err := ParseCompressor("brotli"); err == nil {
		t.Error("brotli parses")
	}
	if err := Compressor(9).decode(nil, nil); err == nil {
		t.Error("unknown codec decodes")
	}
	if _, err := Compressor(9).encoder(0); err == nil {
		t.Error("unknown codec encodes")
	}
}
