// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"math"
	"slices"

	"lighter/format/internal/disk"
)

// point remembers the block border at which the scanner stands, unless the one
// before is near.
func (s *gzipScanner) point() {
	out := s.outPos()
	if n := len(s.points); n > 0 && out-s.points[n-1].out < pointStep && s.points[n-1].out >= s.member {
		return
	}
	p := &zranPoint{in: s.inPos(), bits: uint8(s.nbits % 8), out: out}
	if p.bits > 0 {
		p.last = byte(s.hold&(1<<p.bits-1)) << (8 - p.bits)
	}
	n := int(min(window, out-s.member, int64(len(s.out))))
	if n > 0 {
		p.dict = slices.Clone(s.out[len(s.out)-n:])
		p.used = make([]uint64, (n+63)/64)
		s.active = append(s.active, p)
	}
	s.points = append(s.points, p)
}

// refer notes that output behind the point repeats what lies at from to to.
func (p *zranPoint) refer(from, to int64) {
	base := p.out - int64(len(p.dict))
	for k := from - base; k < to-base; k++ {
		p.used[k/64] |= 1 << (k % 64)
	}
}

// finishPoints finishes the dictionaries that nothing more can refer to: what
// nothing referred to becomes zero, which takes little room, and is cut off at
// the beginning.
func (s *gzipScanner) finishPoints(all bool) {
	s.active = slices.DeleteFunc(s.active, func(p *zranPoint) bool {
		if !all && s.outPos() < p.out+window && p.out >= s.member {
			return false
		}
		first := len(p.dict)
		for k := range p.dict {
			switch {
			case p.used[k/64]>>(k%64)&1 == 0:
				p.dict[k] = 0
			case k < first:
				first = k
			}
		}
		p.dict, p.used = slices.Clone(p.dict[first:]), nil
		return true
	})
}

// latest gives the last point at or before out, and forgets what lies before it.
func (s *gzipScanner) latest(out int64) *zranPoint {
	k := 0
	for k+1 < len(s.points) && s.points[k+1].out <= out {
		k++
	}
	s.points = slices.Delete(s.points, 0, k)
	m := 0
	for m+1 < len(s.marks) && s.marks[m+1].out <= out {
		m++
	}
	s.marks = slices.Delete(s.marks, 0, m)
	return s.points[0]
}

// taken is how much of the archive the output up to out took, or a little more.
func (s *gzipScanner) taken(out int64) int64 {
	for _, m := range s.marks {
		if m.out >= out {
			return m.in
		}
	}
	return s.inPos()
}

// Sizes that a context should not pass: what one read of a chunk fetches and
// inflates.
const (
	contextIn  = 512 << 10
	contextOut = 2 << 20
)

// zranIndex collects the contexts of an archive.
type zranIndex struct {
	contexts []zranContext
}

type zranContext struct {
	point *zranPoint
	in    int64 // its end in the archive
	out   int64 // its end in the output
}

// add enters the chunk at start to end of the output, which was just read;
// point is the latest one before it.
func (x *zranIndex) add(s *gzipScanner, point *zranPoint, start, end int64) (context, skip uint32, err error) {
	in := s.taken(end)
	n := len(x.contexts)
	if n == 0 || in-x.contexts[n-1].point.in > contextIn || end-x.contexts[n-1].point.out > contextOut {
		x.contexts = append(x.contexts, zranContext{point: point})
		n++
	}
	c := &x.contexts[n-1]
	c.in, c.out = max(c.in, in), end
	if c.out-c.point.out > maxUnit || c.in-c.point.in > maxUnit || n > math.MaxInt32 {
		return 0, 0, fmt.Errorf("gzip: a block of more than %d bytes", maxUnit)
	}
	return uint32(n - 1), uint32(start - c.point.out), nil
}

// append appends contexts and dictionaries in their stored form.
func (x *zranIndex) append(p []byte) []byte {
	var off uint64
	for i := range x.contexts {
		c := &x.contexts[i]
		d := disk.ZranContext{
			InOff: uint64(c.point.in), OutOff: uint64(c.point.out), DictOff: off,
			InLen: uint32(c.in - c.point.in), OutLen: uint32(c.out - c.point.out), DictLen: uint32(len(c.point.dict)),
			Byte: c.point.last, Bits: c.point.bits,
		}
		p = d.Append(p)
		off += uint64(len(c.point.dict))
	}
	for i := range x.contexts {
		p = append(p, x.contexts[i].point.dict...)
	}
	return p
}
