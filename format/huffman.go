// SPDX-License-Identifier: Apache-2.0

package format

import "math/bits"

// Huffman codes of deflate (RFC 1951, 3.2).

const (
	maxCode  = 15 // bits
	fastCode = 10 // bits of codes that one look finds
)

// huffman decodes one set of codes.
type huffman struct {
	fast   [1 << fastCode]uint16 // by the next bits: symbol<<4 | length; 0: a longer code, or none
	count  [maxCode + 1]uint16   // codes of each length
	symbol [288]uint16           // by code
}

// init makes the codes of the symbols' lengths; 0: the symbol has none.
func (h *huffman) init(lengths []uint8) error {
	clear(h.fast[:])
	clear(h.count[:])
	for _, n := range lengths {
		h.count[n]++
	}
	h.count[0] = 0
	var code, offset [maxCode + 2]uint16
	left := 1
	for n := 1; n <= maxCode; n++ {
		if left = left<<1 - int(h.count[n]); left < 0 {
			return errDeflate // more codes than there can be
		}
		code[n+1] = (code[n] + h.count[n]) << 1
		offset[n+1] = offset[n] + h.count[n]
	}
	for sym, n := range lengths {
		if n == 0 {
			continue
		}
		h.symbol[offset[n]] = uint16(sym)
		offset[n]++
		if n <= fastCode {
			first := bits.Reverse16(code[n]) >> (16 - n)
			for k := uint(first); k < 1<<fastCode; k += 1 << n {
				h.fast[k] = uint16(sym)<<4 | uint16(n)
			}
		}
		code[n]++
	}
	return nil
}

// decode finds the symbol of the code that the bits begin with, and its
// length; 0: there is none.
func (h *huffman) decode(hold uint64) (sym uint16, n uint) {
	if e := h.fast[hold&(1<<fastCode-1)]; e != 0 {
		return e >> 4, uint(e & 15)
	}
	var code, first, index int
	for n := 1; n <= maxCode; n++ {
		code |= int(hold & 1)
		hold >>= 1
		count := int(h.count[n])
		if code-count < first {
			return h.symbol[index+code-first], uint(n)
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return 0, 0
}

var (
	lengthBase  = [...]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [...]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distBase    = [...]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073,
		4097, 6145, 8193, 12289, 16385, 24577}
	distExtra = [...]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}

	// codeOrder is the order of the lengths of the codes for lengths.
	codeOrder = [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

// fixedLengths are those of the fixed codes: 288 symbols, then 30 distances.
var fixedLengths = func() (l [288 + 30]uint8) {
	for i := range l {
		switch {
		case i < 144:
			l[i] = 8
		case i < 256:
			l[i] = 9
		case i < 280:
			l[i] = 7
		case i < 288:
			l[i] = 8
		default:
			l[i] = 5
		}
	}
	return l
}()

// dynamicCodes reads the codes of a block.
func (s *gzipScanner) dynamicCodes() error {
	var n [3]uint32
	for i, width := range []uint{5, 5, 4} {
		v, err := s.take(width)
		if err != nil {
			return err
		}
		n[i] = v
	}
	symbols, distances := int(n[0])+257, int(n[1])+1
	if symbols > 286 {
		return errDeflate
	}
	var lengths [286 + 32]uint8
	for _, k := range codeOrder[:n[2]+4] {
		v, err := s.take(3)
		if err != nil {
			return err
		}
		lengths[k] = uint8(v)
	}
	if err := s.dist.init(lengths[:19]); err != nil {
		return err
	}
	clear(lengths[:])
	if err := s.codeLengths(lengths[:symbols+distances]); err != nil {
		return err
	}
	if err := s.lit.init(lengths[:symbols]); err != nil {
		return err
	}
	return s.dist.init(lengths[symbols : symbols+distances])
}

// codeLengths reads run-length coded lengths with the codes in s.dist.
func (s *gzipScanner) codeLengths(lengths []uint8) error {
	for i := 0; i < len(lengths); {
		if s.nbits < 48 {
			s.refill()
		}
		sym, n := s.dist.decode(s.hold)
		if n == 0 || n > s.nbits {
			return s.short(n)
		}
		s.hold >>= n
		s.nbits -= n
		if sym < 16 {
			lengths[i] = uint8(sym)
			i++
			continue
		}
		var value uint8
		var times uint32
		var err error
		switch sym {
		case 16:
			if i == 0 {
				return errDeflate
			}
			value = lengths[i-1]
			times, err = s.take(2)
			times += 3
		case 17:
			times, err = s.take(3)
			times += 3
		default:
			times, err = s.take(7)
			times += 11
		}
		if err != nil {
			return err
		}
		if int(times) > len(lengths)-i {
			return errDeflate
		}
		for range times {
			lengths[i] = value
			i++
		}
	}
	return nil
}
