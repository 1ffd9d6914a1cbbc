// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/lazyfs/cache"
)

// Store is the chunk cache and the fetch engine of a node. All its methods may
// be called by many goroutines at once.
type Store struct {
	o      StoreOptions
	cache  *cache.Dir // nil when the directory cannot be used
	memory *memory
	claims claimTable
	cpu    chan struct{} // one token per chunk being inflated
	count  counters

	mu       sync.Mutex
	closed   bool
	images   map[*Image]struct{}
	warnedAt time.Time // when a failing cache was last told of
}

// NewStore opens the cache directory dir, creating it if needed. An error wraps
// cache.ErrLocked when another process uses dir. A directory that cannot be
// written, read-only or full, is told to the logger, and the store works
// without it.
func NewStore(dir string, o StoreOptions) (*Store, error) {
	o = o.withDefaults()
	s := &Store{o: o, memory: newMemory(o.MemoryLimit), cpu: make(chan struct{}, inflaters()), images: map[*Image]struct{}{}}
	c, err := cache.Open(dir, cache.Options{Limit: o.CacheLimit, Lock: o.Lock, Logger: o.Logger})
	switch {
	case err == nil:
		s.cache = c
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO):
		o.Logger.Warn("working without a chunk cache", "dir", dir, "err", err)
	default:
		return nil, fmt.Errorf("open chunk cache: %w", err)
	}
	return s, nil
}

// Prune removes cached blobs that no open image uses, least recently used
// first, until at most keep bytes are left. It returns the bytes freed.
func (s *Store) Prune(ctx context.Context, keep int64) (freed int64, err error) {
	if s.cache == nil {
		return 0, nil
	}
	return s.cache.Prune(ctx, keep)
}

// Close closes all images, waits for their fetches to end and unlocks the
// directory.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return fmt.Errorf("store: %w", ErrClosed)
	}
	s.closed = true
	var open []*Image
	for im := range s.images {
		open = append(open, im)
	}
	s.mu.Unlock()
	for _, im := range open {
		if err := im.Close(); err != nil && !errors.Is(err, ErrClosed) {
			s.o.Logger.Warn("close image", "err", err)
		}
	}
	if s.cache == nil {
		return nil
	}
	return s.cache.Close()
}

// warnCache tells of a failing cache, at most once a minute.
func (s *Store) warnCache(blobID string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.warnedAt.IsZero() || now.Sub(s.warnedAt) > time.Minute {
		s.warnedAt = now
		s.o.Logger.Warn("chunks are read but not kept: cache cannot be written", "blob", blobID, "err", err)
	}
}
