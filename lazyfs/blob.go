// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"lighter/format"
	"lighter/lazyfs/cache"
)

// cacheRetry is the pause before a cache file that could not be opened is
// tried again.
const cacheRetry = 5 * time.Second

// openRetry is the pause before a store that surely lacks a blob, or gives no
// permission, is asked again.
const openRetry = time.Second

// maxHidden is how many missing chunks of a blob are looked at to see whether
// the image has any of them.
const maxHidden = 1 << 18

// blob is one blob of one image: its cache file and its Source, both opened
// when first needed.
type blob struct {
	im   *Image
	info format.Blob

	opening chan struct{} // held, as the only token, while the opener is asked
	loading chan struct{} // the same while the chunk table is fetched

	mu      sync.Mutex
	closed  bool
	file    *cache.Blob // nil while there is none
	fileAt  time.Time   // when it was last tried to open it
	src     *sharedSource
	refused error     // the opener\'s last answer, if it was final
	askAt   time.Time // when it may be asked again after that
	table   *format.ChunkTable
	noLocal bool // the table beside the bootstrap led to wrong bytes
	failing bool // the last fetch failed: so that only changes are logged
}

func newBlob(im *Image, info format.Blob) *blob {
	return &blob{im: im, info: info, opening: make(chan struct{}, 1), loading: make(chan struct{}, 1)}
}

// cached returns the cache file, or nil if there is none at the moment.
func (b *blob) cached() *cache.Blob {
	s := b.im.store
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file != nil || b.closed || s.cache == nil {
		return b.file
	}
	if now := time.Now(); b.fileAt.IsZero() || now.Sub(b.fileAt) > cacheRetry {
		b.fileAt = now
		f, err := s.cache.Blob(b.info.ID, cache.Geometry{Chunks: b.info.ChunkCount, Size: int64(b.info.UncompressedSize)})
		if err != nil {
			s.warnCache(b.info.ID, err)
			return nil
		}
		b.file = f
	}
	return b.file
}

// complete says whether the cache was given every chunk that the image has of
// the blob: all of them, as a rule, but layers above may have hidden some.
func (b *blob) complete() bool {
	f := b.cached()
	if f == nil || f.Complete() {
		return f != nil
	}
	if n := f.ReadyCount(); n == 0 || b.info.ChunkCount-n > maxHidden {
		return false
	}
	for i := range b.info.ChunkCount {
		if f.Ready(i) {
			continue
		}
		if _, err := b.im.boot.Chunk(b.info.Index, i); err == nil {
			return false
		}
	}
	return true
}

// sharedSource counts the users of a Source, so that it can be closed when it
// was replaced and its last read has ended.
type sharedSource struct {
	Source
	b     *blob
	users int // guarded by b.mu; the blob itself is one
}

func (s *sharedSource) done() {
	s.b.mu.Lock()
	s.users--
	last := s.users == 0
	s.b.mu.Unlock()
	if c, ok := s.Source.(io.Closer); ok && last {
		c.Close()
	}
}

// source opens the blob, once for all who ask at the same time. The caller
// must call done on the result.
func (b *blob) source(ctx context.Context) (*sharedSource, error) {
	select {
	case b.opening <- struct{}{}:
		defer func() { <-b.opening }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if s, err := b.opened(); s != nil || err != nil {
		return s, err
	}
	src, err := b.im.spec.Opener.Open(ctx, b.info.ID)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = nil
	if err != nil {
		err = fmt.Errorf("open: %w", err)
		if permanent(err) {
			b.refused, b.askAt = err, time.Now().Add(openRetry)
		}
		return nil, err
	}
	s := &sharedSource{Source: src, b: b, users: 1}
	if !b.closed {
		b.src = s
		s.users++
	}
	return s, nil
}

func (b *blob) opened() (*sharedSource, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refused != nil && time.Now().Before(b.askAt) {
		return nil, b.refused
	}
	if b.src != nil {
		b.src.users++
	}
	return b.src, nil
}

// forget makes the next source call open the blob anew.
func (b *blob) forget(s *sharedSource) {
	b.mu.Lock()
	same := b.src == s
	if same {
		b.src = nil
	}
	b.mu.Unlock()
	if same {
		s.done()
	}
}

// noteFailure logs the first failure of a row, noteSuccess its end.
func (b *blob) noteFailure(err error) {
	b.mu.Lock()
	first := !b.failing
	b.failing = true
	b.mu.Unlock()
	if first {
		b.im.store.o.Logger.Warn("blob cannot be fetched, trying on", "blob", b.info.ID, "err", err)
	}
}

func (b *blob) noteSuccess() {
	b.mu.Lock()
	was := b.failing
	b.failing = false
	b.mu.Unlock()
	if was {
		b.im.store.o.Logger.Info("blob can be fetched again", "blob", b.info.ID)
	}
}

// close gives back the cache file and the source. No call may be under way.
func (b *blob) close() {
	b.mu.Lock()
	b.closed = true
	f, s := b.file, b.src
	b.file, b.src = nil, nil
	b.mu.Unlock()
	if f != nil {
		f.Close()
	}
	if s != nil {
		s.done()
	}
}
