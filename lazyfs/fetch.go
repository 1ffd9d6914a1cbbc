// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// fetch starts getting chunks whose claims the caller holds, and returns. The
// claims of one blob share one work.
func (im *Image) fetch(wants []*want, background bool) {
	byBlob := map[*blob][]*want{}
	for _, w := range wants {
		byBlob[w.blob] = append(byBlob[w.blob], w)
	}
	for b, wants := range byBlob {
		claims := make([]*claim, len(wants))
		for i, w := range wants {
			claims[i] = w.claim
		}
		f := &fetcher{im: im, b: b, background: background, work: im.store.claims.Start(im.ctx, claims)}
		// The caller is registered itself, so the image is not closed yet.
		im.work.Add(1)
		go func() {
			defer im.work.Done()
			f.work.End(&fetchError{im, f.run(wants)})
		}()
	}
}

// fetcher gets some chunks of one blob.
type fetcher struct {
	im         *Image
	b          *blob
	work       *work
	background bool
}

// run returns why the claims that are still unresolved then stay so.
func (f *fetcher) run(wants []*want) error {
	ctx := f.work.Context()
	var runs [][]*unit
	err := f.retry(ctx, func(ctx context.Context, limit time.Duration) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		table, err := f.b.chunkTable(ctx)
		if err != nil {
			return err
		}
		units, err := f.units(wants, table)
		if err != nil {
			return err
		}
		if f.background {
			runs = split(units, maxAhead)
		} else {
			runs = split(f.extend(units, table), maxRun)
		}
		return nil
	})
	if err != nil {
		return err
	}
	errs := make([]error, len(runs))
	var wg sync.WaitGroup
	for i, units := range runs {
		wg.Go(func() { errs[i] = f.fetchRun(ctx, units) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return errAgain
}

// retry calls attempt until it succeeds, fails for good, or nobody waits any
// more. limit is the time that a request of the attempt may take: for the
// first attempt only a part of a read's time, so that one that hangs leaves
// time for another.
func (f *fetcher) retry(ctx context.Context, attempt func(ctx context.Context, limit time.Duration) error) error {
	o := &f.im.store.o
	for i, pause := 0, o.Backoff; ; i, pause = i+1, min(2*pause, 20*o.Backoff) {
		limit := o.ReadTimeout
		if i == 0 {
			limit /= 3
		}
		err := attempt(ctx, limit)
		if err == nil {
			f.b.noteSuccess()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if permanent(err) {
			return err
		}
		f.im.store.count.fetchErrors.Add(1)
		f.b.noteFailure(err)
		f.work.Failed(err)
		if f.work.Waiters() == 0 {
			return err
		}
		if f.work.Foreign() {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		f.im.store.count.retries.Add(1)
		select {
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fetchRun gets the chunks of one run. After a failure only those that
// somebody waits for are tried again. What it cannot get, it resolves with the
// error: other runs may take longer.
func (f *fetcher) fetchRun(ctx context.Context, units []*unit) error {
	first := true
	err := f.retry(ctx, func(ctx context.Context, limit time.Duration) error {
		if !first {
			units = f.wanted(units)
		}
		first = false
		var err error
		units, err = f.attempt(ctx, limit, units)
		return err
	})
	if err != nil {
		f.giveUp(units, err)
	}
	return err
}

// giveUp resolves the claims on what units still hold.
func (f *fetcher) giveUp(units []*unit, err error) {
	for _, u := range units {
		for _, w := range u.chunks {
			w.claim.Resolve(nil, &fetchError{f.im, err})
		}
	}
}

// wanted keeps the units that somebody waits for; the claims on others end.
func (f *fetcher) wanted(units []*unit) []*unit {
	var keep []*unit
	for _, u := range units {
		if slices.ContainsFunc(u.chunks, func(w *want) bool { return w.claim.Waiting() }) {
			keep = append(keep, u)
			continue
		}
		for _, w := range u.chunks {
			w.claim.Resolve(nil, errAgain)
		}
	}
	return keep
}
