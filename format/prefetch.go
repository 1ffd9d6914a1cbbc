// SPDX-License-Identifier: Apache-2.0

package format

import "lighter/format/internal/disk"

// Prefetch returns the inode numbers of the prefetch table, in the order of
// the builder's patterns. A directory stands for everything below it.
func (b *Bootstrap) Prefetch() ([]uint64, error) {
	off, n, last := b.prefetchOff(), int64(b.ext.PrefetchSize), uint64(b.size)/disk.NidSize
	if b.v5 != nil {
		n, last = 4*int64(b.v5.Prefetches), uint64(b.v5.Names)
	}
	if n == 0 {
		return nil, nil
	}
	p, err := b.view("prefetch table", off, n)
	if err != nil {
		return nil, err
	}
	nids := make([]uint64, 0, n/4)
	for at := int64(0); at < n; at += 4 {
		nid := uint64(le.Uint32(p[at:]))
		if nid > last {
			return nil, corrupt("prefetch table", "nid", off+at, "%d is behind the end of the bootstrap", nid)
		}
		nids = append(nids, nid)
	}
	return nids, nil
}

func (b *Bootstrap) prefetchOff() int64 {
	if b.v5 != nil {
		return int64(b.v5.PrefetchOff)
	}
	return int64(b.ext.PrefetchOff)
}
