// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"lighter/format"
)

const (
	maxRun   = 8 << 20  // stored bytes of one ranged read, unless one unit is larger
	maxAhead = 2 << 20  // the same for read-ahead, whose first chunks will soon be wanted
	maxGap   = 64 << 10 // stored bytes between two units that one ranged read skips

	maxNeighbours = 1024 // chunks that one fetch looks at to take along
)

// unit is what is stored as a whole: one chunk, or the chunks of a batch.
type unit struct {
	ext    format.Extent
	chunks []*want
}

func (u *unit) end() int64 { return u.ext.Off + u.ext.Size }

// units groups chunks by what stores them, in stored order.
func (f *fetcher) units(wants []*want, table *format.ChunkTable) ([]*unit, error) {
	type place struct{ off, size int64 }
	at := map[place]*unit{}
	var units []*unit
	for _, w := range wants {
		ext, err := f.im.boot.Extent(w.chunk, table)
		if err != nil {
			return nil, err
		}
		u := at[place{ext.Off, ext.Size}]
		if u == nil {
			u = &unit{ext: ext}
			at[place{ext.Off, ext.Size}] = u
			units = append(units, u)
		}
		w.skip = ext.Skip
		u.chunks = append(u.chunks, w)
	}
	slices.SortFunc(units, func(a, b *unit) int { return cmp.Compare(a.ext.Off, b.ext.Off) })
	return units, nil
}

// extend takes missing neighbours along when less than MergeSize would be
// fetched: small files are read one after the other, and a request costs as
// much as they do.
func (f *fetcher) extend(units []*unit, table *format.ChunkTable) []*unit {
	limit := f.im.store.o.MergeSize
	var sum int64
	for _, u := range units {
		sum += u.ext.Size
	}
	last := units[len(units)-1]
	next := last.chunks[0].chunk.Index
	for _, w := range last.chunks {
		next = max(next, w.chunk.Index)
	}
	next++
	for stop := min(f.b.info.ChunkCount, next+maxNeighbours); sum < limit && next < stop; next++ {
		c, err := f.im.boot.Chunk(f.b.info.Index, next)
		if err != nil {
			continue // no file of this image has it
		}
		ext, err := f.im.boot.Extent(c, table)
		same := ext.Off == last.ext.Off && ext.Size == last.ext.Size
		if err != nil || ext.Off < last.ext.Off || ext.Off-last.end() > maxGap || !same && sum+ext.Size > limit {
			break
		}
		w := f.im.want(c, 0)
		if !f.im.tryClaim(w) {
			continue // there already, or being fetched
		}
		w.skip = ext.Skip
		f.work.Add(w.claim)
		if same {
			last.chunks = append(last.chunks, w)
			continue
		}
		last = &unit{ext: ext, chunks: []*want{w}}
		units = append(units, last)
		sum += ext.Size
	}
	return units
}

// split cuts units, in stored order, into runs that one ranged read gets.
func split(units []*unit, limit int64) [][]*unit {
	var runs [][]*unit
	var start, end int64
	for _, u := range units {
		if len(runs) == 0 || u.ext.Off-end > maxGap || max(end, u.end())-start > limit {
			runs = append(runs, nil)
			start, end = u.ext.Off, u.ext.Off
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], u)
		end = max(end, u.end())
	}
	return runs
}

// attempt does the ranged reads for units and decodes what comes; it returns
// the units that did not come.
func (f *fetcher) attempt(ctx context.Context, limit time.Duration, units []*unit) ([]*unit, error) {
	src, err := f.source(ctx, limit)
	if err != nil {
		return units, err
	}
	defer src.done()
	units = f.within(units, src.Size())
	for len(units) > 0 {
		run := split(units, maxRun)[0]
		buf, err := f.read(ctx, limit, src, run)
		start := run[0].ext.Off
		var whole, rest []*unit
		for _, u := range run {
			if u.end()-start <= int64(len(buf)) {
				whole = append(whole, u)
			} else {
				rest = append(rest, u)
			}
		}
		for _, u := range f.wanted(f.decodeAll(whole, buf, start)) {
			f.again(u)
		}
		units = append(rest, units[len(run):]...)
		if err != nil {
			return units, err
		}
	}
	return nil, nil
}

// within keeps the units that lie in a blob of size bytes, and gives up the
// others.
func (f *fetcher) within(units []*unit, size int64) []*unit {
	var keep []*unit
	for _, u := range units {
		if u.ext.Off >= 0 && u.ext.Size >= 0 && u.ext.Off <= size-u.ext.Size {
			keep = append(keep, u)
			continue
		}
		f.giveUp([]*unit{u}, fmt.Errorf("%w: stored bytes %d to %d of a blob of %d", format.ErrCorrupt, u.ext.Off, u.end(), size))
	}
	return keep
}

// source opens the blob within limit.
func (f *fetcher) source(ctx context.Context, limit time.Duration) (*sharedSource, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f.b.source(ctx)
}

// read gets the stored bytes of a run, or the first of them and an error. It
// may take limit, not counting the time until it is its turn.
func (f *fetcher) read(ctx context.Context, limit time.Duration, src *sharedSource, run []*unit) ([]byte, error) {
	c := &f.im.store.count
	slots := f.im.fg
	if f.background && f.work.Waiters() == 0 {
		slots = f.im.bg
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	off := run[0].ext.Off
	end := off
	for _, u := range run {
		end = max(end, u.end())
	}
	try, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	buf := make([]byte, end-off)
	began := time.Now()
	got, err := src.ReadAt(try, buf, off)
	got = max(0, min(got, len(buf)))
	f.im.rate.note(int64(got), time.Since(began))
	c.requests.Add(1)
	c.bytes.Add(int64(got))
	if f.background {
		c.readAhead.Add(int64(got))
	}
	if got == len(buf) {
		return buf, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if ctx.Err() == nil {
		f.b.forget(src)
	}
	return buf[:got], fmt.Errorf("read %d bytes at %d, got %d: %w", len(buf), off, got, err)
}
