// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"lighter/format"
)

// Image is one opened image: its metadata, and its files' bytes on demand. All
// its methods may be called by many goroutines at once.
type Image struct {
	store *Store
	spec  ImageSpec
	file  *mapping
	boot  *format.Bootstrap
	blobs []*blob // by blob index

	fg, bg chan struct{} // one token per ranged read: for waiting readers, for read-ahead
	ahead  aheadTable
	rate   rate

	storing atomic.Int64 // chunks that readers have and the cache is being given

	ctx    context.Context // ends at Close; parent of all fetches
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // reads and fetches under way; Add only while not closed
}

// OpenImage maps and checks a bootstrap. It does not use the network, nor the
// Opener. Errors wrap format.ErrCorrupt (also for a digest that differs),
// format.ErrUnsupported, ErrClosed or those of the file system.
func (s *Store) OpenImage(ctx context.Context, spec ImageSpec) (*Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	if spec.Opener == nil {
		return nil, errors.New("open image: no opener")
	}
	file, err := mapFile(spec.Bootstrap, spec.Digest)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	im := &Image{
		store: s, spec: spec, file: file,
		fg: make(chan struct{}, s.o.Fetchers), bg: make(chan struct{}, max(1, s.o.Fetchers/4)),
	}
	im.ctx, im.cancel = context.WithCancelCause(context.Background())
	if err := im.open(); err != nil {
		im.release()
		return nil, fmt.Errorf("open image %s: %w", spec.Bootstrap, err)
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.images[im] = struct{}{}
		s.count.images.Add(1)
	}
	s.mu.Unlock()
	if closed {
		im.release()
		return nil, fmt.Errorf("open image: store: %w", ErrClosed)
	}
	return im, nil
}

func (im *Image) open() (err error) {
	if im.boot, err = format.Open(im.file, im.file.Size()); err != nil {
		return err
	}
	for _, info := range im.boot.Blobs() {
		if info.ID == format.PlaceholderID {
			return fmt.Errorf("blob %d: %w: bootstrap of a single layer, which does not know its blob's id", info.Index, format.ErrUnsupported)
		}
		im.blobs = append(im.blobs, newBlob(im, info))
	}
	return nil
}

// Bootstrap is the image's metadata. Its methods fail after Close.
func (im *Image) Bootstrap() *format.Bootstrap { return im.boot }

// Complete says whether the cache has been given every chunk of every blob of
// the image, so that it can be expected to run without its store.
func (im *Image) Complete() bool {
	if !im.enter() {
		return false
	}
	defer im.work.Done()
	// Give what was just read the time to reach the cache.
	for range 100 {
		if im.storing.Load() == 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, b := range im.blobs {
		if !b.complete() {
			return false
		}
	}
	return true
}

// Cold says that the cache holds no chunk of the image.
func (im *Image) Cold() bool {
	for _, b := range im.blobs {
		if f := b.cached(); f != nil && f.ReadyCount() > 0 {
			return false
		}
	}
	return true
}

// Missing asks the opener once for each blob that is not complete in the
// cache, and returns the ids of those that the store surely lacks. Blobs about
// which the opener could say nothing are in err, by the reason why; both
// results can be set.
func (im *Image) Missing(ctx context.Context) (ids []string, err error) {
	if !im.enter() {
		return nil, fmt.Errorf("image: %w", ErrClosed)
	}
	defer im.work.Done()
	errs := make([]error, len(im.blobs))
	var wg sync.WaitGroup
	for i, b := range im.blobs {
		if b.complete() {
			continue
		}
		wg.Go(func() {
			src, err := b.source(ctx)
			if err == nil {
				src.done()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	var rest []error
	for i, e := range errs {
		switch {
		case errors.Is(e, fs.ErrNotExist):
			ids = append(ids, im.blobs[i].info.ID)
		case e != nil:
			rest = append(rest, fmt.Errorf("blob %s: %w", im.blobs[i].info.ID, e))
		}
	}
	return ids, errors.Join(rest...)
}

// enter registers a call; the caller must call work.Done if it is true.
func (im *Image) enter() bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.closed {
		return false
	}
	im.work.Add(1)
	return true
}

// Close ends all reads and fetches of the image, waits for them, and unmaps
// the bootstrap.
func (im *Image) Close() error {
	im.mu.Lock()
	closed := im.closed
	im.closed = true
	im.mu.Unlock()
	if closed {
		return fmt.Errorf("image: %w", ErrClosed)
	}
	im.cancel(fmt.Errorf("image: %w", ErrClosed))
	im.work.Wait()
	s := im.store
	s.mu.Lock()
	delete(s.images, im)
	s.count.images.Add(-1)
	s.mu.Unlock()
	return im.release()
}

func (im *Image) release() error {
	im.cancel(ErrClosed)
	for _, b := range im.blobs {
		b.close()
	}
	return im.file.close()
}
