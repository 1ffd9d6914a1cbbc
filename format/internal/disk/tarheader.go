// SPDX-License-Identifier: Apache-2.0

package disk

import "fmt"

// TarHeaderSize is the size of TarHeader in bytes.
const TarHeaderSize = 512

// TarHeader is the header that Nydus puts behind a blob's parts. It is a GNU
// tar header of a regular file with all else left zero.
type TarHeader struct {
	Name string // at most 99 bytes
	Size int64  // of the content before the header, in bytes
}

const gnuMagic = "ustar  \x00"

// Decode fills h from b[:TarHeaderSize] and reports whether magic, checksum
// and size are those of a tar header.
func (h *TarHeader) Decode(b []byte) bool {
	b = b[:TarHeaderSize]
	if string(b[257:265]) != gnuMagic || b[156] != '0' {
		return false
	}
	sum, ok := octal(b[148:156])
	if !ok || sum != tarSum(b) {
		return false
	}
	h.Name = CString(b[:100])
	h.Size, ok = tarSize(b[124:136])
	return ok
}

// Append appends the TarHeaderSize bytes of h to b. Sizes of 8 GiB and more
// take the base-256 form of GNU tar.
func (h *TarHeader) Append(b []byte) []byte {
	var t [TarHeaderSize]byte
	copy(t[:99], h.Name)
	if h.Size < 1<<33 {
		copy(t[124:], fmt.Sprintf("%011o", h.Size))
	} else {
		for i, v := 11, uint64(h.Size); i > 0; i, v = i-1, v>>8 {
			t[124+i] = byte(v)
		}
		t[124] = 0x80
	}
	copy(t[136:], "00000000000")
	t[156] = '0'
	copy(t[257:], gnuMagic)
	copy(t[148:], fmt.Sprintf("%07o", tarSum(t[:])))
	return append(b, t[:]...)
}

// tarSum is the sum of all bytes, those of the sum itself taken as spaces.
func tarSum(b []byte) int64 {
	sum := int64(8 * ' ')
	for i, c := range b {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	return sum
}

func tarSize(b []byte) (int64, bool) {
	if b[0] != 0x80 {
		return octal(b)
	}
	var v int64
	for _, c := range b[1:] {
		if v >= 1<<55 {
			return 0, false
		}
		v = v<<8 | int64(c)
	}
	return v, true
}

// octal reads digits up to the first NUL or space; one digit at least.
func octal(b []byte) (int64, bool) {
	var v int64
	for i, c := range b {
		if c == 0 || c == ' ' {
			return v, i > 0
		}
		if c < '0' || c > '7' {
			return 0, false
		}
		v = v<<3 | int64(c-'0')
	}
	return v, true
}
