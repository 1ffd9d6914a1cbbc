// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lighter/format"
)

// want is a chunk that a read needs.
type want struct {
	blob    *blob
	chunk   format.Chunk
	key     chunkKey
	fileOff int64
	skip    int64  // where the chunk begins in what its unit inflates to
	data    []byte // once it is there
	claim   *claim
	mine    bool
}

// errAgain resolves a claim whose holder stopped for reasons of its own.
var errAgain = errors.New("fetch was given up")

// get fills in the data of all wants: it claims them, resolves what is at hand,
// starts fetching the rest, and waits.
func (im *Image) get(ctx context.Context, wants []*want) error {
	var missing []*want
	for _, w := range wants {
		if w.data != nil {
			continue
		}
		if im.claim(w) {
			missing = append(missing, w)
		}
	}
	im.fetch(missing, false)
	for i, w := range wants {
		if w.data != nil {
			continue
		}
		if err := im.wait(ctx, w); err != nil {
			for _, rest := range wants[i+1:] {
				rest.giveUp()
			}
			return err
		}
	}
	return nil
}

// giveUp leaves a claim without waiting.
func (w *want) giveUp() {
	if w.data == nil && w.claim != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		w.claim.Wait(ended)
	}
}

// claim joins or takes the claim on a chunk and says whether it must be
// fetched. The same chunk may be wanted twice by one read.
func (im *Image) claim(w *want) bool {
	w.claim, w.mine = im.store.claims.Get(w.key, im)
	if !w.mine {
		im.store.count.joined.Add(1)
		return false
	}
	data := im.local(w)
	if data == nil {
		return true
	}
	w.claim.Resolve(data, nil)
	return false
}

// tryClaim takes the claim on a chunk for nobody in particular, if it is not
// at hand and nobody has it.
func (im *Image) tryClaim(w *want) bool {
	if im.atHand(w) {
		return false
	}
	if w.claim = im.store.claims.Try(w.key, im); w.claim == nil {
		return false
	}
	if im.atHand(w) {
		w.claim.Resolve(nil, errAgain)
		return false
	}
	return true
}

// atHand says whether a chunk is probably in memory, in its cache file or in
// that of another blob.
func (im *Image) atHand(w *want) bool {
	if im.store.memory.has(w.key) {
		return true
	}
	f := w.blob.cached()
	return f != nil && (f.Ready(w.chunk.Index) || im.store.cache.Hinted(w.key.digest, w.key.size))
}

// wait waits for a claimed chunk. When another's fetch failed for reasons that
// need not be ours, it claims the chunk itself.
func (im *Image) wait(ctx context.Context, w *want) error {
	for {
		data, err, own, attempt := w.claim.Wait(ctx)
		switch {
		case err == nil:
			w.data = data
			return nil
		case own:
			if attempt != nil {
				err = fmt.Errorf("%w, the last attempt: %w", err, attempt)
			}
			return w.fail(err)
		case im.ctx.Err() != nil:
			return w.fail(context.Cause(im.ctx))
		case ctx.Err() != nil:
			return w.fail(ctx.Err())
		case w.mine && !errors.Is(err, errAgain) && !errors.Is(err, context.Canceled):
			return w.fail(err)
		case w.joinedOwn(err):
			return w.fail(err)
		case w.mine:
			// Given up for another image's reader, who is to go first now.
			select {
			case <-time.After(im.store.o.Backoff):
			case <-ctx.Done():
			}
		}
		if im.claim(w) {
			im.fetch([]*want{w}, false)
		}
	}
}

// joinedOwn says whether err, of a claim that was joined, holds for this image
// as well.
func (w *want) joinedOwn(err error) bool {
	var e *fetchError
	return errors.As(err, &e) && e.im == w.blob.im && permanent(err)
}

func (w *want) fail(err error) error {
	var e *fetchError
	if errors.As(err, &e) {
		err = e.err
	}
	return &ChunkError{Blob: w.blob.info.ID, Chunk: w.chunk.Index, Err: err}
}

// fetchError tells those who joined a claim whose fetch failed.
type fetchError struct {
	im  *Image
	err error
}

func (e *fetchError) Error() string { return e.err.Error() }
func (e *fetchError) Unwrap() error { return e.err }

// local looks for a chunk in memory, its cache file and other blobs' cache
// files, and keeps what it finds.
func (im *Image) local(w *want) []byte {
	s := im.store
	if data := s.memory.get(w.key); data != nil {
		s.count.memoryHits.Add(1)
		return data
	}
	f := w.blob.cached()
	if f == nil {
		return nil
	}
	if f.Ready(w.chunk.Index) {
		data := make([]byte, w.chunk.UncompressedSize)
		_, err := f.ReadAt(data, w.chunk.UncompressedOff)
		if err == nil {
			err = im.boot.Verify(w.chunk, data)
		}
		if err == nil {
			s.count.cacheHits.Add(1)
			f.Use(w.chunk.Index, w.chunk.UncompressedOff, int64(w.chunk.UncompressedSize))
			s.memory.add(w.key, data)
			return data
		}
		s.count.cacheBad.Add(1)
		s.o.Logger.Warn("cached chunk is bad, fetching it again", "blob", w.blob.info.ID, "chunk", w.chunk.Index, "err", err)
		if err := f.Drop(w.chunk.Index); err != nil {
			s.warnCache(w.blob.info.ID, err)
		}
	}
	data := make([]byte, w.chunk.UncompressedSize)
	if s.cache.Find(w.key.digest, data, func(p []byte) bool { return im.boot.Verify(w.chunk, p) == nil }) {
		s.count.sharedHits.Add(1)
		s.memory.add(w.key, data)
		im.keep(w, data)
		return data
	}
	return nil
}

// keep writes a verified chunk to the cache, if that can be.
func (im *Image) keep(w *want, data []byte) {
	s := im.store
	f := w.blob.cached()
	if f == nil {
		s.count.uncached.Add(1)
		return
	}
	if err := f.Put(w.chunk.Index, w.chunk.UncompressedOff, data); err != nil {
		s.count.uncached.Add(1)
		s.warnCache(w.blob.info.ID, err)
		return
	}
	f.Hint(w.key.digest, w.chunk.UncompressedOff, w.chunk.UncompressedSize)
}
