// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
)

const tailSize = 8192 // bytes kept of a stream's end; enough for a table of contents or a blob's header

// stream is the body of an ApplyDiff: it is hashed, counted, and its last bytes are kept, whoever reads it.
type stream struct {
	*bufio.Reader
	hash hash.Hash
	size int64
	tail []byte
}

func newStream(r io.Reader) *stream {
	s := &stream{hash: sha256.New()}
	s.Reader = bufio.NewReaderSize(&streamReader{s: s, r: r}, 256<<10)
	return s
}

// finish reads what is left, and returns the digest of the whole stream.
func (s *stream) finish() (string, error) {
	if _, err := io.Copy(io.Discard, s.Reader); err != nil {
		return "", err
	}
	return digestOf(s.hash.Sum(nil)), nil
}

type streamReader struct {
	s *stream
	r io.Reader
}

func (r *streamReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	s := r.s
	s.hash.Write(p[:n])
	s.size += int64(n)
	if n >= tailSize {
		s.tail = append(s.tail[:0], p[n-tailSize:n]...)
	} else {
		if over := len(s.tail) + n - tailSize; over > 0 {
			s.tail = s.tail[:copy(s.tail, s.tail[over:])]
		}
		s.tail = append(s.tail, p[:n]...)
	}
	return n, err
}

// verifyReader gives the bytes of r, and an error in place of io.EOF unless they were the wanted ones.
type verifyReader struct {
	r      io.ReadCloser
	what   string // for the error
	digest string
	size   int64
	hash   hash.Hash
	n      int64
	err    error
}

func newVerifyReader(r io.ReadCloser, what, digest string, size int64) *verifyReader {
	return &verifyReader{r: r, what: what, digest: digest, size: size, hash: sha256.New()}
}

func (v *verifyReader) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	if v.n > v.size {
		v.err = fmt.Errorf("%s: what is stored is longer than the %d bytes it had", v.what, v.size)
		return 0, v.err
	}
	if err == io.EOF {
		if got := digestOf(v.hash.Sum(nil)); got != v.digest {
			err = fmt.Errorf("%s: what is stored has digest %s (%d bytes), it came as %s (%d bytes)", v.what, got, v.n, v.digest, v.size)
		}
	} else if err != nil {
		err = fmt.Errorf("%s: %w", v.what, err)
	}
	v.err = err
	return n, err
}

func (v *verifyReader) Close() error { return v.r.Close() }
