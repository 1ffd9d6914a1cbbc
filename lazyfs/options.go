// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"log/slog"
	"os"
	"runtime"
	"time"
)

// StoreOptions adjusts a Store; the zero value is the default.
type StoreOptions struct {
	// ReadTimeout is the longest that one Image.ReadAt may take; 0 means 60 s.
	ReadTimeout time.Duration
	// CacheLimit is the number of bytes that cached chunks may take on disk
	// before the least recently used blobs are evicted, those of open images
	// last and only by chunks that were not read for a while; 0 means no limit.
	CacheLimit int64
	// Fetchers is the number of ranged reads that one image may have under way
	// for waiting readers; 0 means 16. Read-ahead has a quarter of it beside.
	Fetchers int
	// MemoryLimit bounds the verified chunks kept in memory for the whole
	// store, in bytes; 0 means 32 MiB.
	MemoryLimit int64
	// ReadAhead is the largest number of stored bytes fetched ahead of a
	// sequential reader; 0 means 8 MiB, negative none.
	ReadAhead int64
	// MergeSize is the number of stored bytes up to which a fetch takes missing
	// neighbours of a chunk along; 0 means 512 KiB, about what a line of 1 Gbit/s
	// carries in two round trips of 2 ms; negative means none.
	MergeSize int64
	// Backoff is the first pause before a failed fetch is tried again, doubled
	// up to 20 times itself; 0 means 100 ms.
	Backoff time.Duration
	// Lock, if not nil, is an open file that a supervising process keeps locked
	// (flock) on behalf of this one; it stands for the lock of the cache
	// directory, and stays the caller's to close.
	Lock *os.File
	// Logger receives what nobody returns: bad cached chunks, refetches, a
	// failing cache. nil means slog.Default().
	Logger *slog.Logger
}

func (o StoreOptions) withDefaults() StoreOptions {
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = 60 * time.Second
	}
	if o.Fetchers <= 0 {
		o.Fetchers = 16
	}
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = 32 << 20
	}
	if o.ReadAhead == 0 {
		o.ReadAhead = 8 << 20
	}
	if o.MergeSize == 0 {
		o.MergeSize = 512 << 10
	}
	if o.Backoff <= 0 {
		o.Backoff = 100 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// inflaters is how many chunks one store inflates and verifies at a time.
func inflaters() int { return max(2, runtime.GOMAXPROCS(0)) }

// ImageSpec says what to open and where its data comes from.
type ImageSpec struct {
	// Bootstrap is the path of the uncompressed bootstrap; it is mapped, not
	// loaded, and must stay as it is until the image is closed.
	Bootstrap string
	// Digest is "sha256:" and 64 hex digits of the whole bootstrap file, checked
	// at open. Empty means that nothing vouches for the bootstrap: every chunk
	// is still checked against it.
	Digest string
	// Opener finds the data blobs by id. It is not called at open.
	Opener Opener
	// MetaDir, if not empty, may hold the chunk tables of the data blobs as
	// <id>.blob.meta, which saves fetching them; <id> is that of the object that
	// has the table: the blob itself, unless the data is somebody else's archive.
	MetaDir string
}
