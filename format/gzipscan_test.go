// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// TestGzipScanner reads archives in small pieces, and begins in the middle of
// them at every point.
func TestGzipScanner(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	data := make([]byte, 700_000)
	for i := range data {
		data[i] = byte(r.IntN(1 + i%50))
		if i > 40000 && i%3 > 0 {
			data[i] = data[i-1-r.IntN(2)*32767]
		}
	}
	archive := append(gzipped(t, data[:300_000]), gzipped(t, data[300_000:])...)
	for name, in := range map[string]io.Reader{"whole": bytes.NewReader(archive), "bytes": iotest.OneByteReader(bytes.NewReader(archive)),
		"data with error": iotest.DataErrReader(bytes.NewReader(archive))} {
		got, err := io.ReadAll(newGzipScanner(in))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	s := newGzipScanner(bytes.NewReader(archive))
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Fatal(err)
	}
	if len(s.points) < 5 || len(s.active) > 0 {
		t.Fatalf("%d points, %d of them unfinished", len(s.points), len(s.active))
	}
	for _, p := range s.points {
		beginAt(t, archive, data, p)
	}
	broken := errors.New("broken")
	if _, err := io.ReadAll(newGzipScanner(io.MultiReader(bytes.NewReader(archive[:1000]), iotest.ErrReader(broken)))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// beginAt inflates from a point to the end of the archive.
func beginAt(t testing.TB, archive, data []byte, p *zranPoint) {
	t.Helper()
	u := zranUnit{dict: p.dict, last: p.last, bits: uint(p.bits)}
	dst := make([]byte, len(data)-int(p.out))
	if err := u.inflate(dst, archive[p.in:]); len(dst) > 0 && (err != nil || !bytes.Equal(dst, data[p.out:])) {
		t.Fatalf("from %d (output %d, %d bits, dictionary of %d): %v", p.in, p.out, p.bits, len(p.dict), err)
	}
}

// FuzzGzipScanner compares with compress/gzip, and begins at all points.
func FuzzGzipScanner(f *testing.F) {
	text := bytes.Repeat([]byte("some text, some more text; "), 3000)
	seed(f, []any{gzipped(f, text)}, []any{gzipped(f, nil)}, []any{append(gzipped(f, []byte("one")), gzipped(f, text[:5000])...)},
		[]any{append(gzipped(f, []byte("one")), 0, 0, 0)})
	f.Fuzz(func(t *testing.T, archive []byte) {
		s := newGzipScanner(bytes.NewReader(archive))
		got, err := io.ReadAll(io.LimitReader(s, 8<<20))
		if len(got) == 8<<20 {
			return
		}
		z, zerr := gzip.NewReader(bytes.NewReader(archive))
		var want []byte
		if zerr == nil {
			want, zerr = io.ReadAll(z)
		}
		if zerr == nil && err != nil {
			t.Fatalf("compress/gzip gives %d bytes, we fail: %v", len(want), err)
		}
		if zerr == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes differ from the %d of compress/gzip", len(got), len(want))
		}
		if err != nil {
			return
		}
		for k, p := range s.points {
			if k < 20 {
				beginAt(t, archive, got, p)
			}
		}
	})
}
