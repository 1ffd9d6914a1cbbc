// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"sync"
	"time"

	"lighter/format"
)

// aheadSlots is the number of files whose sequential readers are followed at
// the same time; more only means that some get no read-ahead.
const aheadSlots = 64

// aheadMin is the first read-ahead of a sequential reader in bytes of the file.
const aheadMin = 1 << 20

// aheadTable remembers where reads of a file ended.
type aheadTable struct {
	mu    sync.Mutex
	slots [aheadSlots]aheadSlot
}

type aheadSlot struct {
	nid    uint64
	next   int64 // file offset where the last read ended
	done   int64 // file offset up to which read-ahead was started
	window int64
}

// aheadSlack is how far from the end of the last read the next one may begin
// and still be sequential: the kernel asks for neighbouring parts of a file in
// any order.
const aheadSlack = 1 << 20

// advance notes a read and returns the range of the file to fetch ahead, empty
// unless reads are sequential. The window doubles while they stay so.
func (t *aheadTable) advance(nid uint64, off, n, limit int64) (from, to int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.slots[nid%aheadSlots]
	if s.nid != nid || off > s.next+aheadSlack || off+n < s.next-aheadSlack {
		*s = aheadSlot{nid: nid, next: off + n}
		return 0, 0
	}
	if off+n <= s.next {
		return 0, 0
	}
	s.next = off + n
	from = max(s.next, s.done)
	// Half a window is left before the next one is started.
	if s.window > 0 && from-s.next > s.window/2 {
		return 0, 0
	}
	s.window = min(max(aheadMin, 2*s.window), limit)
	to = max(from, s.next+s.window)
	s.done = to
	return from, to
}

// rate is the throughput of an image's fetches, averaged over the last few.
type rate struct {
	mu    sync.Mutex
	bytes float64 // per second; 0: not known
}

// note takes a ranged read into account. Short ones say more of the delay than
// of the throughput.
func (r *rate) note(n int64, d time.Duration) {
	if n < 64<<10 || d <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := float64(n) / d.Seconds()
	if r.bytes == 0 {
		r.bytes = now
	}
	r.bytes += (now - r.bytes) / 4
}

// within is how many bytes can be fetched in d, or limit if that is less or
// nothing is known.
func (r *rate) within(d time.Duration, limit int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.bytes * d.Seconds(); r.bytes > 0 && n < float64(limit) {
		return int64(n)
	}
	return limit
}

// readAhead starts fetching what a sequential reader of ino will want next.
func (im *Image) readAhead(ino format.Inode, off, n int64) {
	limit := im.store.o.ReadAhead
	if limit <= 0 || off+n >= ino.Size {
		return
	}
	// On a slow line, what is fetched ahead is in the way of what is wanted.
	limit = max(min(limit, aheadMin), im.rate.within(time.Second, limit))
	from, to := im.ahead.advance(ino.Nid, off, n, limit)
	if to = min(to, ino.Size); from >= to {
		return
	}
	wants, err := im.wants(ino, from, to-from)
	if err != nil {
		return // the read of that range will say so
	}
	claimed := wants[:0]
	for _, w := range wants {
		if im.tryClaim(w) {
			claimed = append(claimed, w)
		}
	}
	im.fetch(claimed, true)
}
