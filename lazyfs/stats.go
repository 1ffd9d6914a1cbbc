// SPDX-License-Identifier: Apache-2.0

package lazyfs

import "sync/atomic"

// Stats is a snapshot of what a Store has done since it was made. Counters
// only grow, except those that say "now".
type Stats struct {
	Images int64 `json:"images"` // open now

	Reads      int64 `json:"reads"`       // Image.ReadAt calls
	ReadBytes  int64 `json:"read_bytes"`  // bytes that they returned
	ReadErrors int64 `json:"read_errors"` // those that failed, not counting io.EOF
	Timeouts   int64 `json:"timeouts"`    // those that failed because time ran out

	MemoryHits int64 `json:"memory_hits"` // chunks found verified in memory
	CacheHits  int64 `json:"cache_hits"`  // chunks read from their cache file and verified
	SharedHits int64 `json:"shared_hits"` // chunks copied from another blob's cache file
	Joined     int64 `json:"joined"`      // chunks that another reader was already getting

	FetchRequests  int64 `json:"fetch_requests"`  // ranged reads of stored blobs
	FetchBytes     int64 `json:"fetch_bytes"`     // stored bytes that they returned
	FetchedChunks  int64 `json:"fetched_chunks"`  // chunks verified after a fetch
	FetchErrors    int64 `json:"fetch_errors"`    // ranged reads and opens that failed
	FetchRetries   int64 `json:"fetch_retries"`   // pauses before trying again
	ReadAheadBytes int64 `json:"readahead_bytes"` // part of FetchBytes nobody waited for yet
	InFlight       int64 `json:"in_flight"`       // chunks that somebody is getting now

	CacheBad       int64 `json:"cache_bad"`       // cached chunks that were wrong on disk, and dropped
	VerifyFailures int64 `json:"verify_failures"` // fetched chunks that were wrong
	Refetches      int64 `json:"refetches"`       // those fetched once more, alone
	Corrupt        int64 `json:"corrupt"`         // those wrong again: readers got an error

	Uncached    int64 `json:"uncached"`     // chunks that could not be written to the cache
	MemoryBytes int64 `json:"memory_bytes"` // verified chunks in memory now
	CacheBytes  int64 `json:"cache_bytes"`  // cached chunks on disk now
	PinnedBytes int64 `json:"pinned_bytes"` // part of CacheBytes that belongs to open images
	CacheLimit  int64 `json:"cache_limit"`  // 0: none
}

type counters struct {
	images                                                   atomic.Int64
	reads, readBytes, readErrors, timeouts                   atomic.Int64
	memoryHits, cacheHits, sharedHits, joined                atomic.Int64
	requests, bytes, chunks, fetchErrors, retries, readAhead atomic.Int64
	cacheBad, verifyFailures, refetches, corrupt, uncached   atomic.Int64
}

// Stats returns the counters. It may be called at any time, also after Close.
func (s *Store) Stats() Stats {
	c := &s.count
	st := Stats{
		Images: c.images.Load(),
		Reads:  c.reads.Load(), ReadBytes: c.readBytes.Load(), ReadErrors: c.readErrors.Load(), Timeouts: c.timeouts.Load(),
		MemoryHits: c.memoryHits.Load(), CacheHits: c.cacheHits.Load(), SharedHits: c.sharedHits.Load(), Joined: c.joined.Load(),
		FetchRequests: c.requests.Load(), FetchBytes: c.bytes.Load(), FetchedChunks: c.chunks.Load(),
		FetchErrors: c.fetchErrors.Load(), FetchRetries: c.retries.Load(), ReadAheadBytes: c.readAhead.Load(),
		InFlight: int64(s.claims.Len()),
		CacheBad: c.cacheBad.Load(), VerifyFailures: c.verifyFailures.Load(), Refetches: c.refetches.Load(), Corrupt: c.corrupt.Load(),
		Uncached: c.uncached.Load(), MemoryBytes: s.memory.bytes(), CacheLimit: s.o.CacheLimit,
	}
	if s.cache != nil {
		st.CacheBytes, st.PinnedBytes = s.cache.Usage()
	}
	return st
}
