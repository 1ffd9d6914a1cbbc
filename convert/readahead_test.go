// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestReadAhead(t *testing.T) {
	want := make([]byte, 5*aheadSize+777)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range want {
		want[i] = byte(rnd.Uint32())
	}
	lost := errors.New("lost")
	for name, c := range map[string]struct {
		r   io.Reader
		err error
	}{
		"plain":  {bytes.NewReader(want), nil},
		"halves": {iotest.HalfReader(bytes.NewReader(want)), nil},
		"at end": {iotest.DataErrReader(bytes.NewReader(want)), nil},
		"lost":   {io.MultiReader(bytes.NewReader(want), iotest.ErrReader(lost)), lost},
		"short":  {io.MultiReader(bytes.NewReader(want), iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF},
	} {
		a := readAhead(c.r)
		got, err := io.ReadAll(a)
		if !errors.Is(err, c.err) || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
		a.Close()
	}
	a := readAhead(bytes.NewReader(want)) // closed before its end
	if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	a.Close()
	readAhead(bytes.NewReader(want)).Close()
}
