// SPDX-License-Identifier: Apache-2.0

package keeper

import "time"

const (
	firstDelay = 50 * time.Millisecond
	maxDelay   = 5 * time.Second
	// healthy is the life after which a worker's death counts as the first.
	healthy = 10 * time.Second
)

// backoff says how long to wait before the next worker. One that was killed
// from outside, or that had lived for long, is replaced at once.
type backoff struct {
	failures int // in a row
}

func (b *backoff) next(killed bool, life time.Duration) time.Duration {
	if killed {
		b.failures = 0
		return 0
	}
	if life >= healthy {
		b.failures = 0
	}
	b.failures++
	if b.failures == 1 {
		return 0
	}
	return min(maxDelay, firstDelay<<min(b.failures-2, 10))
}
