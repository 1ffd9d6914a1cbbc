// SPDX-License-Identifier: Apache-2.0

package format

import "lighter/format/internal/disk"

// slots is a set of the 32-byte slots of a bootstrap: one bit for each.
type slots []uint64

func newSlots(size int64) slots {
	return make(slots, size/(disk.NidSize*64)+1)
}

// set adds the slots that n > 0 bytes at off touch. If one is there already,
// or lies outside, it adds none and returns false.
func (s slots) set(off, n int64) bool {
	first, last := off/disk.NidSize, (off+n-1)/disk.NidSize
	if first < 0 || last>>6 >= int64(len(s)) {
		return false
	}
	for k := first; k <= last; {
		word, mask, next := span(k, last)
		if s[word]&mask != 0 {
			return false
		}
		k = next
	}
	for k := first; k <= last; {
		word, mask, next := span(k, last)
		s[word] |= mask
		k = next
	}
	return true
}

// span returns the word of slot k, the bits of k to last in it, and the first
// slot of the next word.
func span(k, last int64) (word int64, mask uint64, next int64) {
	word, next = k>>6, (k|63)+1
	mask = ^uint64(0) << (k & 63)
	if last < next {
		mask &= ^uint64(0) >> (63 - last&63)
	}
	return word, mask, next
}

// has reports whether the slot at byte off is in the set.
func (s slots) has(off int64) bool {
	k := off / disk.NidSize
	return off >= 0 && k>>6 < int64(len(s)) && s[k>>6]>>(k&63)&1 != 0
}

// bitset is a set of small numbers.
type bitset []uint64

func newBitset(n uint64) bitset { return make(bitset, n/64+1) }

func (s bitset) add(k uint64)      { s[k>>6] |= 1 << (k & 63) }
func (s bitset) has(k uint64) bool { return s[k>>6]>>(k&63)&1 != 0 }
