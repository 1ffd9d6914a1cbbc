// SPDX-License-Identifier: Apache-2.0

// Package cache keeps uncompressed chunks of blobs on disk, for all images of a
// node, and decides who fetches a chunk that is missing.
//
// # On disk
//
//	lock                          flock of the one process that uses the directory; holds its pid
//	hints                         fixed-size table: chunk digest -> file set, offset, size
//	blobs/<id>.<n>-<size>.data    sparse: the blob's uncompressed address space
//	blobs/<id>.<n>-<size>.map     header, then one ready bit per chunk
//
// <n> is the number of chunks and <size> the uncompressed size in bytes, both
// hex: images that disagree about the shape of a blob use different file sets.
//
// # What may be believed
//
// Nothing. A ready bit and a hint say where bytes may be found; whoever reads
// them compares their digest. So there is no fsync and no order to keep: after a
// crash, or when files were cut, changed or deleted, the cost is a refetch.
// A bit is set after the chunk was written, in the running process as well.
//
// # Concurrency
//
// Everything may be called by many goroutines at once. Lock order: Dir.mu, then
// Blob.mu; hints and Claims have locks of their own, under which no other is taken.
package cache
