// SPDX-License-Identifier: Apache-2.0

// Package lazyfs turns bootstraps and a place to fetch blobs from into files
// that can be read before their data is here: each chunk is fetched when it is
// first read, verified, and kept in a cache that all images of a node share.
//
// # Life of an image
//
// Store.OpenImage hashes the bootstrap file against the expected digest, maps it
// and validates its tables. Nothing is fetched: that happens in Image.ReadAt and,
// for the question whether the data exists at all, in Image.Missing. A mapped
// bootstrap that is cut later gives errors, not a crash: each access runs with
// memory faults turned into panics, which it recovers.
//
// # Life of a read
//
// A file range becomes chunks; for each of them, in this order: the verified
// chunks in memory; the claim table, where a reader either joins whoever is at
// that chunk, or gets the chunk to itself; then memory again, the cache file, a
// copy that another blob has, and a fetch. What comes from disk is verified each
// time: a bad chunk is dropped, counted, logged and fetched again. Chunks that
// miss are fetched in runs: neighbours in the blob, with small gaps, share one
// ranged read and are inflated and verified in parallel.
//
// A failed fetch is tried again, with growing pauses, as long as a reader waits;
// each reader leaves when its own context or StoreOptions.ReadTimeout ends. Only
// what cannot change ends a read earlier: a blob that surely does not exist, no
// permission, a chunk that was wrong twice. Nothing is remembered of a failure.
//
// # Life of a chunk
//
// fetched, inflated, verified, then published: to memory, to those who wait, to
// the cache file and its ready bit, to the hint table; only then can somebody
// else take the chunk's claim. Bytes that were not verified are visible to nobody.
// If the cache cannot be written the chunk is published without it, so a full
// disk costs refetches, not errors.
//
// # Locks
//
// The claim table, the memory of verified chunks and the cache have locks of
// their own, none held during a fetch or while taking another. blob.mu is held
// only to read or set fields.
package lazyfs
