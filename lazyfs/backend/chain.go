// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"
)

// Chain is several stores as one: a blob is opened in the first that has it, and
// when reading there fails, in the next. Its error wraps fs.ErrNotExist only if
// all stores surely lack the blob. A store that does not answer gets its share
// of the time that the context leaves, so that the others have theirs.
func Chain(openers ...Opener) Opener {
	if len(openers) == 1 {
		return openers[0]
	}
	return &chain{openers: openers, failed: make([]time.Time, len(openers))}
}

// avoided is how long a store that failed is only tried after the others.
const avoided = 30 * time.Second

type chain struct {
	openers []Opener

	mu     sync.Mutex
	failed []time.Time // by store: when it last failed otherwise than for lack of a blob
}

// order is the order in which to try the stores: preferred first, unless it
// failed a short while ago, and those that did last.
func (c *chain) order(preferred int) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var good, bad []int
	add := func(i int) {
		if time.Since(c.failed[i]) < avoided {
			bad = append(bad, i)
		} else {
			good = append(good, i)
		}
	}
	for i := range c.openers {
		if i == preferred {
			add(i)
		}
	}
	for i := range c.openers {
		if i != preferred {
			add(i)
		}
	}
	return append(good, bad...)
}

// judge keeps in mind how a store did.
func (c *chain) judge(i int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.failed[i] = time.Time{}
	case !errors.Is(err, fs.ErrNotExist):
		c.failed[i] = time.Now()
	}
}

// each calls try for the stores in the order of preference until one does not
// fail. A store gets its share of the time that ctx leaves, and one that used it
// up another when the rest have failed.
func (c *chain) each(ctx context.Context, preferred int, try func(ctx context.Context, i int) error) error {
	order := c.order(preferred)
	failures := make([]error, len(c.openers))
	for len(order) > 0 {
		var slow []int
		for k, i := range order {
			sctx, cancel := share(ctx, len(order)-k)
			err := try(sctx, i)
			tooSlow := sctx.Err() != nil
			cancel()
			if ctx.Err() == nil || err == nil {
				c.judge(i, err)
			}
			if err == nil {
				return nil
			}
			failures[i] = err
			if ctx.Err() != nil { // the others were not asked
				return joinFailures(append(failures, ctx.Err()))
			}
			if tooSlow {
				slow = append(slow, i)
			}
		}
		order = slow
	}
	return joinFailures(failures)
}

// share is ctx with the part of its time that one of n stores gets.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	d, ok := ctx.Deadline()
	if !ok || n <= 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(d)/time.Duration(n))
}

// joinFailures wraps all errors if all say that the blob is absent. Otherwise
// those that say so are left out: one of the others might have it.
func joinFailures(all []error) error {
	var absent, unsure []error
	for _, err := range all {
		if errors.Is(err, fs.ErrNotExist) {
			absent = append(absent, err)
		} else if err != nil {
			unsure = append(unsure, err)
		}
	}
	if len(unsure) > 0 {
		return errors.Join(unsure...)
	}
	if len(absent) > 0 {
		return errors.Join(absent...)
	}
	return fmt.Errorf("no store of blobs is known: %w", fs.ErrNotExist)
}

func (c *chain) Open(ctx context.Context, blobID string) (Blob, error) {
	b := &chainBlob{c: c, id: blobID, opened: make([]Blob, len(c.openers)), size: -1}
	err := c.each(ctx, 0, func(ctx context.Context, i int) error {
		_, err := b.open(ctx, i)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// chainBlob is a blob in one or more stores of a chain.
type chainBlob struct {
	c  *chain
	id string

	mu     sync.Mutex
	size   int64  // -1: not known
	first  int    // the store that last worked
	opened []Blob // by store; nil: not opened
}

func (b *chainBlob) Size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// Close closes what was opened in the stores. It does not run together with reads.
func (b *chainBlob) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for i, blob := range b.opened {
		if c, ok := blob.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
		b.opened[i] = nil
	}
	return errors.Join(errs...)
}

func (b *chainBlob) open(ctx context.Context, i int) (Blob, error) {
	b.mu.Lock()
	blob := b.opened[i]
	b.mu.Unlock()
	if blob != nil {
		return blob, nil
	}
	blob, err := b.c.openers[i].Open(ctx, b.id)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size >= 0 && blob.Size() != b.size {
		return nil, fmt.Errorf("blob %s has %d bytes in another store, and %d here", b.id, b.size, blob.Size())
	}
	if b.size < 0 {
		b.size, b.first = blob.Size(), i
	}
	b.opened[i] = blob
	return blob, nil
}

func (b *chainBlob) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	b.mu.Lock()
	preferred := b.first
	b.mu.Unlock()
	end := false
	err = b.c.each(ctx, preferred, func(ctx context.Context, i int) error {
		blob, err := b.open(ctx, i)
		if err != nil {
			return err
		}
		n, err = blob.ReadAt(ctx, p, off)
		if end = err == io.EOF; err != nil && !end {
			return err
		}
		b.mu.Lock()
		b.first = i
		b.mu.Unlock()
		return nil
	})
	if err == nil && end {
		err = io.EOF
	}
	return n, err
}
