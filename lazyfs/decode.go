// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"lighter/format"
)

// decodeAll inflates and verifies units in parallel, publishes their chunks and
// returns the units that failed. buf begins at stored byte start.
func (f *fetcher) decodeAll(units []*unit, buf []byte, start int64) (bad []*unit) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(len(units), cap(f.im.store.cpu)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(units); i = next.Add(1) - 1 {
				u := units[i]
				stored := buf[u.ext.Off-start:][:u.ext.Size]
				if err := f.decode(u, stored); err != nil {
					f.im.store.count.verifyFailures.Add(int64(len(u.chunks)))
					f.logBad("fetched chunk is bad, fetching it again", u, err)
					mu.Lock()
					bad = append(bad, u)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return bad
}

// decode publishes the chunks of one unit; those that fail stay in it.
func (f *fetcher) decode(u *unit, stored []byte) error {
	s := f.im.store
	s.cpu <- struct{}{}
	defer func() { <-s.cpu }()
	whole, err := inflate(u.ext, stored)
	if err != nil {
		return err
	}
	var left []*want
	for _, w := range u.chunks {
		data, e := f.slice(w, whole)
		if e != nil {
			left, err = append(left, w), e
			continue
		}
		s.count.chunks.Add(1)
		s.memory.add(w.key, data)
		f.im.storing.Add(1)
		w.claim.Deliver(data)
		f.im.keep(w, data)
		f.im.storing.Add(-1)
		w.claim.Resolve(data, nil)
	}
	u.chunks = left
	return err
}

// inflate turns a panic of a decoder into an error: one image must not stop
// the others.
func inflate(ext format.Extent, stored []byte) (whole []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: decoder: %v", format.ErrCorrupt, r)
		}
	}()
	return ext.Inflate(nil, stored)
}

// slice is one chunk of an inflated unit, verified, and in memory of its own
// unless it is the whole unit.
func (f *fetcher) slice(w *want, whole []byte) ([]byte, error) {
	size := int64(w.chunk.UncompressedSize)
	if w.skip < 0 || w.skip > int64(len(whole))-size {
		return nil, fmt.Errorf("%w: %d bytes at %d of %d inflated ones", format.ErrCorrupt, size, w.skip, len(whole))
	}
	data := whole[w.skip:][:size]
	if err := f.im.boot.Verify(w.chunk, data); err != nil {
		return nil, err
	}
	if size != int64(cap(whole)) {
		data = append(make([]byte, 0, size), data...)
	}
	return data, nil
}

// again fetches one unit once more, alone, after its bytes were wrong. What
// fails now is the readers' error.
func (f *fetcher) again(u *unit) {
	s := f.im.store
	s.count.refetches.Add(int64(len(u.chunks)))
	err := f.retry(f.work.Context(), func(ctx context.Context, limit time.Duration) error {
		src, err := f.source(ctx, limit)
		if err != nil {
			return err
		}
		defer src.done()
		buf, err := f.read(ctx, limit, src, []*unit{u})
		if err != nil {
			return err
		}
		return f.decode(u, buf)
	})
	if err == nil {
		return
	}
	if errors.Is(err, format.ErrCorrupt) {
		s.count.verifyFailures.Add(int64(len(u.chunks)))
		s.count.corrupt.Add(int64(len(u.chunks)))
		f.b.distrustTable()
		f.logBad("chunk is corrupt in the store", u, err)
	}
	f.giveUp([]*unit{u}, err)
}

// logBad names the chunks of a unit that were not what their digests say; err
// has the digest found.
func (f *fetcher) logBad(msg string, u *unit, err error) {
	for _, w := range u.chunks {
		f.im.store.o.Logger.Warn(msg, "blob", f.b.info.ID, "chunk", w.chunk.Index,
			"wanted", hex.EncodeToString(w.chunk.Digest[:]), "offset", u.ext.Off, "size", u.ext.Size, "err", err)
	}
}
