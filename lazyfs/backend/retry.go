// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	firstDelay  = 100 * time.Millisecond
	longestWait = 2 * time.Second
	// maxDubious is how many wrong answers in a row end an access.
	maxDubious = 3
	// patience is how long an access whose context has no deadline goes on
	// without any progress.
	patience = time.Minute
)

// retry calls try until it returns nil, an error that is permanent, or too many
// dubious ones, or ctx ends. try reports whether it got any data, which makes
// all counts start again, and is told how often it stalled in a row.
func retry(ctx context.Context, failed func(error), try func(stalls int) (progress bool, err error)) error {
	_, hasDeadline := ctx.Deadline()
	var failures, stalls, wrong int
	since := time.Now()
	var last error
	for {
		progress, err := try(stalls)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			if errors.Is(err, ctx.Err()) {
				err = last
			}
			return giveUp(ctx, err)
		}
		last = err
		if progress {
			failures, stalls, wrong, since = 0, 0, 0, time.Now()
		}
		switch judge(err) {
		case permanent:
			return err
		case dubious:
			if wrong++; wrong >= maxDubious {
				return err
			}
		}
		var a *answerError
		if errors.As(err, &a) && a.stalled {
			stalls++
		}
		if !hasDeadline && time.Since(since) > patience {
			return giveUp(ctx, err)
		}
		failed(err)
		if sleep(ctx, backoff(failures)) != nil {
			return giveUp(ctx, err)
		}
		failures++
	}
}

// backoff is the pause after the nth failure: doubled each time, and jittered so
// that readers that failed together do not come back together.
func backoff(n int) time.Duration {
	d := longestWait
	if n < 5 {
		d = min(longestWait, firstDelay<<n)
	}
	return d/2 + rand.N(d/2)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
