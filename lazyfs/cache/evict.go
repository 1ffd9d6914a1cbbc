// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// evictPause is the shortest time between two looks at the usage.
const evictPause = 100 * time.Millisecond

// awake makes the eviction loop look at the usage.
func (d *Dir) awake() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// full makes the eviction loop free some room whatever the limit is.
func (d *Dir) full() {
	d.noSpace.Store(true)
	d.awake()
}

// evictLoop keeps the directory within its limit, leaving some room so that it
// need not run for every chunk.
func (d *Dir) evictLoop() {
	defer close(d.done)
	for {
		select {
		case <-d.stop:
			return
		case <-d.wake:
		}
		if keep, over := d.target(); over {
			if _, err := d.Prune(context.Background(), keep); err != nil && !errors.Is(err, ErrClosed) {
				d.log.Warn("cache eviction", "err", err)
			}
			d.sweepOpen(keep)
		}
		select {
		case <-d.stop:
			return
		case <-time.After(evictPause):
		}
	}
}

// target is how many bytes eviction should leave, and whether there are more.
func (d *Dir) target() (keep int64, over bool) {
	total, _ := d.Usage()
	if d.noSpace.Swap(false) {
		return total - total/10, true
	}
	return d.limit - d.limit/10, d.limit > 0 && total > d.limit
}

// Prune removes the least recently used blobs that nobody has open until at
// most keep bytes are on disk, or only open blobs are left. It returns the
// bytes that it freed.
func (d *Dir) Prune(ctx context.Context, keep int64) (freed int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, ErrClosed
	}
	total, _ := d.usage()
	var idle []*fileSet
	for _, s := range d.sets {
		if s.blob == nil {
			idle = append(idle, s)
		}
	}
	slices.SortFunc(idle, func(a, b *fileSet) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.name, b.name))
	})
	for _, s := range idle {
		if total <= keep || ctx.Err() != nil {
			break
		}
		// The map goes first: data without one is removed at the next start.
		for _, suffix := range []string{".map", ".data"} {
			if e := os.Remove(d.path(s.name + suffix)); e != nil && !errors.Is(e, os.ErrNotExist) {
				err = fmt.Errorf("prune cache: %w", e)
			}
		}
		if err != nil {
			return freed, err
		}
		total -= s.size
		freed += s.size
		delete(d.sets, s.name)
		delete(d.byKey, s.key)
	}
	return freed, ctx.Err()
}

// sweepOpen drops chunks of open blobs that were not used since the last sweep
// of their blob, largest blob first, until at most keep bytes are left.
func (d *Dir) sweepOpen(keep int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	total, _ := d.usage()
	var open []*Blob
	for _, s := range d.sets {
		if s.blob != nil {
			open = append(open, s.blob)
		}
	}
	slices.SortFunc(open, func(a, b *Blob) int { return cmp.Compare(b.alloc.Load(), a.alloc.Load()) })
	for _, b := range open {
		if total <= keep {
			return
		}
		freed, err := b.dropUnused(d.sweep)
		total -= freed
		if err != nil {
			d.log.Warn("cache eviction", "file", b.set.name, "err", err)
		}
	}
}

// dropUnused makes holes of all but the recently used chunks, unless it did so
// less than pause ago, and returns the bytes freed.
func (b *Blob) dropUnused(pause time.Duration) (freed int64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.recent == nil || time.Since(b.swept) < pause {
		return 0, nil
	}
	keep := make([]extent, 0, len(b.recent)+1)
	for i := range b.geo.Chunks {
		x, used := b.recent[i]
		if used {
			keep = append(keep, x)
		} else if err = b.bits.set(i, false); err != nil {
			return 0, err
		}
	}
	slices.SortFunc(keep, func(x, y extent) int { return cmp.Compare(x.off, y.off) })
	keep = append(keep, extent{(b.geo.Size + 4095) &^ 4095, 0})
	pos := int64(0)
	for _, x := range keep {
		if x.off > pos {
			mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
			if e := unix.Fallocate(int(b.data.Fd()), mode, pos, x.off-pos); e != nil {
				err = fmt.Errorf("punch hole: %w", e)
			}
		}
		pos = max(pos, x.off+x.size)
	}
	b.recent = map[uint32]extent{}
	b.swept = time.Now()
	now := diskSize(b.data.Name())
	return b.alloc.Swap(now) - now, err
}
