// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"lighter/format/internal/disk"
)

// gzipScanner inflates a gzip archive of one or several members (RFC 1952, RFC
// 1951) and remembers where deflate blocks begin, with what is needed to begin
// to inflate there. What it gives is not checked by the archive's CRC-32.
type gzipScanner struct {
	r     io.Reader
	in    []byte // buffer of the archive
	at    int    // next byte of in
	end   int    // bytes in in
	inOff int64  // offset in the archive of in[0]
	inErr error

	hold  uint64 // bits taken from in and not used yet, the next one lowest
	nbits uint

	out    []byte // history, then what was not given yet
	given  int    // bytes of out that were given
	outOff int64  // offset in the output of out[0]
	member int64  // offset in the output at which the member began

	state  scanState
	final  bool // the block is the member's last
	length int  // stored: bytes left
	lit    huffman
	dist   huffman
	err    error

	points []*zranPoint // block borders not given up yet, by position
	active []*zranPoint // those whose history is still referred to
	marks  []zranMark   // how much input the output up to a position took
}

type scanState int

const (
	atMember scanState = iota
	atBlock
	inStored
	inHuffman
)

// zranPoint is a block border at which inflating can begin.
type zranPoint struct {
	in   int64 // offset in the archive of the first whole byte
	bits uint8 // pending bits of the byte before
	last byte  // which they are the highest of
	out  int64 // offset in the output
	dict []byte
	used []uint64 // bit for each byte of dict: something refers to it; nil once dict is final
}

// zranMark says that the output up to out took the input up to in.
type zranMark struct{ out, in int64 }

const (
	window      = disk.MaxZranDict
	scanStep    = 64 << 10 // bytes of output between two marks
	pointStep   = 16 << 10 // least bytes of output between two points
	longestCopy = 258
)

func newGzipScanner(r io.Reader) *gzipScanner {
	return &gzipScanner{r: r, in: make([]byte, 128<<10), out: make([]byte, 0, window+scanStep+longestCopy)}
}

var errDeflate = errors.New("deflate: invalid data")

// Read gives the output.
func (s *gzipScanner) Read(p []byte) (int, error) {
	for s.given == len(s.out) {
		if s.err != nil {
			return 0, s.err
		}
		s.step()
	}
	n := copy(p, s.out[s.given:])
	s.given += n
	return n, nil
}

// step inflates some more.
func (s *gzipScanner) step() {
	if len(s.out) > window {
		n := len(s.out) - window
		s.out = s.out[:copy(s.out, s.out[n:])]
		s.outOff += int64(n)
	}
	s.given = len(s.out)
	for s.err == nil && len(s.out) < window+scanStep {
		switch s.state {
		case atMember:
			s.err = s.beginMember()
		case atBlock:
			s.err = s.beginBlock()
		case inStored:
			s.err = s.storedBlock()
		case inHuffman:
			s.err = s.huffmanBlock()
		}
	}
	s.marks = append(s.marks, zranMark{s.outPos(), s.inPos()})
	s.finishPoints(s.err != nil)
}

func (s *gzipScanner) outPos() int64 { return s.outOff + int64(len(s.out)) }

// inPos is the offset in the archive of the first byte of which no bit was used.
func (s *gzipScanner) inPos() int64 { return s.inOff + int64(s.at) - int64(s.nbits/8) }

// fill reads more of the archive; what is left moves to the front.
func (s *gzipScanner) fill() {
	s.inOff += int64(s.at)
	s.end = copy(s.in, s.in[s.at:s.end])
	s.at = 0
	for s.end < len(s.in) && s.inErr == nil {
		var n int
		n, s.inErr = s.r.Read(s.in[s.end:])
		s.end += n
	}
}

// refill takes bits until there are more than any step needs: 48, but at the
// end of the archive.
func (s *gzipScanner) refill() {
	if s.end-s.at < 8 {
		if s.inErr == nil {
			s.fill()
		}
		if s.end-s.at < 8 {
			for s.nbits <= 56 && s.at < s.end {
				s.hold |= uint64(s.in[s.at]) << s.nbits
				s.at++
				s.nbits += 8
			}
			return
		}
	}
	s.hold |= binary.LittleEndian.Uint64(s.in[s.at:]) << s.nbits
	s.at += int((63 - s.nbits) >> 3)
	s.nbits |= 56
	s.hold &= 1<<s.nbits - 1
}

// take gives the next n bits, at most 16. It fails at the end of the archive.
func (s *gzipScanner) take(n uint) (uint32, error) {
	if s.nbits < n {
		if s.refill(); s.nbits < n {
			return 0, s.eof()
		}
	}
	v := uint32(s.hold & (1<<n - 1))
	s.hold >>= n
	s.nbits -= n
	return v, nil
}

func (s *gzipScanner) eof() error {
	if s.inErr != nil && s.inErr != io.EOF {
		return s.inErr
	}
	return io.ErrUnexpectedEOF
}

// align drops bits up to the next whole byte.
func (s *gzipScanner) align() {
	s.hold >>= s.nbits % 8
	s.nbits -= s.nbits % 8
}

func (s *gzipScanner) byte() (byte, error) {
	v, err := s.take(8)
	return byte(v), err
}

func (s *gzipScanner) skip(n int) error {
	for range n {
		if _, err := s.byte(); err != nil {
			return err
		}
	}
	return nil
}

// beginMember reads a member's header. io.EOF means that the archive ends here.
// What is no member, but follows one, is padding.
func (s *gzipScanner) beginMember() error {
	first := s.inPos() == 0
	if s.refill(); s.nbits == 0 {
		if s.inErr != io.EOF || first {
			return s.eof()
		}
		return io.EOF
	}
	if s.nbits < 16 || s.hold&0xffff != 0x8b1f {
		if first {
			return errors.New("gzip: invalid header")
		}
		return s.padding()
	}
	var head [10]byte
	for i := range head {
		var err error
		if head[i], err = s.byte(); err != nil {
			return err
		}
	}
	if head[2] != 8 {
		return fmt.Errorf("gzip: unknown method %d", head[2])
	}
	if err := s.headerFields(head[3]); err != nil {
		return err
	}
	s.member, s.state = s.outPos(), atBlock
	return nil
}

// padding reads the archive to its end.
func (s *gzipScanner) padding() error {
	s.hold, s.nbits, s.at = 0, 0, s.end
	for s.inErr == nil {
		s.fill()
		s.at = s.end
	}
	return s.inErr
}

// headerFields skips what a header's flags announce.
func (s *gzipScanner) headerFields(flags byte) error {
	if flags&4 != 0 { // extra field
		n, err := s.take(16)
		if err == nil {
			err = s.skip(int(n))
		}
		if err != nil {
			return err
		}
	}
	for _, bit := range []byte{8, 16} { // name, comment
		for flags&bit != 0 {
			c, err := s.byte()
			if err != nil {
				return err
			}
			if c == 0 {
				break
			}
		}
	}
	if flags&2 != 0 { // checksum of the header
		return s.skip(2)
	}
	return nil
}

func (s *gzipScanner) beginBlock() error {
	if s.final {
		s.final, s.state = false, atMember
		s.align()
		return s.skip(8) // CRC-32 and size
	}
	s.point()
	head, err := s.take(3)
	if err != nil {
		return err
	}
	s.final = head&1 != 0
	switch head >> 1 {
	case 0:
		s.align()
		n, err := s.take(16)
		if err != nil {
			return err
		}
		inverse, err := s.take(16)
		if err != nil {
			return err
		}
		if n != ^inverse&0xffff {
			return errDeflate
		}
		s.length, s.state = int(n), inStored
		return nil
	case 1:
		s.state = inHuffman
		return errors.Join(s.lit.init(fixedLengths[:288]), s.dist.init(fixedLengths[288:]))
	case 2:
		s.state = inHuffman
		return s.dynamicCodes()
	}
	return errDeflate
}

func (s *gzipScanner) storedBlock() error {
	for s.length > 0 && len(s.out) < window+scanStep {
		if s.nbits > 0 {
			c, err := s.byte()
			if err != nil {
				return err
			}
			s.out = append(s.out, c)
			s.length--
			continue
		}
		if s.at == s.end {
			if s.fill(); s.at == s.end {
				return s.eof()
			}
		}
		n := min(s.length, s.end-s.at, window+scanStep-len(s.out))
		s.out = append(s.out, s.in[s.at:s.at+n]...)
		s.at += n
		s.length -= n
	}
	if s.length == 0 {
		s.state = atBlock
	}
	return nil
}

func (s *gzipScanner) huffmanBlock() error {
	for len(s.out) < window+scanStep {
		if s.nbits < 48 {
			s.refill()
		}
		sym, n := s.lit.decode(s.hold)
		if n == 0 || n > s.nbits {
			return s.short(n)
		}
		s.hold >>= n
		s.nbits -= n
		switch {
		case sym < 256:
			s.out = append(s.out, byte(sym))
			continue
		case sym == 256:
			s.state = atBlock
			return nil
		case sym > 285:
			return errDeflate
		}
		length, err := s.extra(lengthBase[sym-257], lengthExtra[sym-257])
		if err != nil {
			return err
		}
		sym, n = s.dist.decode(s.hold)
		if n == 0 || n > s.nbits {
			return s.short(n)
		}
		s.hold >>= n
		s.nbits -= n
		if sym > 29 {
			return errDeflate
		}
		dist, err := s.extra(distBase[sym], distExtra[sym])
		if err != nil {
			return err
		}
		if err := s.copy(dist, length); err != nil {
			return err
		}
	}
	return nil
}

// short tells why a code of n bits was not found.
func (s *gzipScanner) short(n uint) error {
	if n == 0 && s.nbits >= maxCode {
		return errDeflate
	}
	return s.eof()
}

func (s *gzipScanner) extra(base uint16, n uint8) (int, error) {
	if n == 0 {
		return int(base), nil
	}
	v := int(s.hold & (1<<n - 1))
	if uint(n) > s.nbits {
		return 0, s.eof()
	}
	s.hold >>= n
	s.nbits -= uint(n)
	return int(base) + v, nil
}

// copy repeats length bytes of the history.
func (s *gzipScanner) copy(dist, length int) error {
	pos := s.outPos()
	from := pos - int64(dist)
	if from < s.member {
		return errDeflate
	}
	for _, p := range s.active {
		if from < p.out {
			p.refer(from, min(from+int64(length), p.out))
		}
	}
	at := len(s.out) - dist
	if dist >= length {
		s.out = append(s.out, s.out[at:at+length]...)
		return nil
	}
	for range length {
		s.out = append(s.out, s.out[at])
		at++
	}
	return nil
}
