// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// maxPause bounds what a server may ask for with Retry-After.
const maxPause = 10 * time.Minute

// limiter bounds the requests that run against one host at a time: the bound is
// halved when the host says that there are too many, and grows again by about
// one for each round of successes.
type limiter struct {
	max int

	mu      sync.Mutex
	limit   float64
	running int
	queue   []chan struct{} // oldest first; a closed channel owns a slot
	paused  time.Time       // no request before
	cut     time.Time       // when limit was last halved
}

func newLimiter(max int) *limiter { return &limiter{max: max, limit: float64(max)} }

// slot is the right to one running request.
type slot struct {
	l     *limiter
	start time.Time
	once  sync.Once
}

// acquire waits for a slot, and fails when ctx ends or would end before the host
// wants to be asked again.
func (l *limiter) acquire(ctx context.Context) (*slot, error) {
	for {
		if err := l.waitPause(ctx); err != nil {
			return nil, err
		}
		l.mu.Lock()
		if l.running < int(l.limit) && len(l.queue) == 0 {
			l.running++
			l.mu.Unlock()
			return &slot{l: l, start: time.Now()}, nil
		}
		turn := make(chan struct{})
		l.queue = append(l.queue, turn)
		l.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			l.leave(turn)
			return nil, ctx.Err()
		}
		l.mu.Lock()
		wait := time.Until(l.paused)
		l.mu.Unlock()
		if wait <= 0 {
			return &slot{l: l, start: time.Now()}, nil
		}
		l.release()
	}
}

func (l *limiter) waitPause(ctx context.Context) error {
	for {
		l.mu.Lock()
		wait := time.Until(l.paused)
		l.mu.Unlock()
		if wait <= 0 {
			return ctx.Err()
		}
		if d, ok := ctx.Deadline(); ok && time.Until(d) < wait {
			return &answerError{
				text:    fmt.Sprintf("too many requests: not to be asked again for %v", wait.Round(time.Second)),
				verdict: permanent, err: context.DeadlineExceeded,
			}
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// leave takes turn out of the queue, or gives back the slot that it got.
func (l *limiter) leave(turn chan struct{}) {
	l.mu.Lock()
	for i, c := range l.queue {
		if c == turn {
			l.queue = append(l.queue[:i], l.queue[i+1:]...)
			l.mu.Unlock()
			return
		}
	}
	l.mu.Unlock()
	l.release()
}

func (l *limiter) release() {
	l.mu.Lock()
	l.running--
	l._grant()
	l.mu.Unlock()
}

// _grant hands free slots to the oldest in the queue.
func (l *limiter) _grant() {
	for len(l.queue) > 0 && l.running < int(l.limit) {
		close(l.queue[0])
		l.queue = l.queue[1:]
		l.running++
	}
}

// idle reports whether nothing would be lost by forgetting l.
func (l *limiter) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running == 0 && len(l.queue) == 0 && time.Now().After(l.paused) && l.limit >= float64(l.max)
}

func (l *limiter) current() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.limit)
}

func (s *slot) release() { s.once.Do(s.l.release) }

// succeeded makes room for more requests.
func (s *slot) succeeded() {
	l := s.l
	l.mu.Lock()
	l.limit = min(float64(l.max), l.limit+1/l.limit)
	l._grant()
	l.mu.Unlock()
}

// throttled reports too many requests. The answers to requests that were already
// running at the last halving say nothing new.
func (s *slot) throttled() (limit int) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.start.After(l.cut) {
		l.limit = max(1, l.limit/2)
		l.cut = time.Now()
	}
	return int(l.limit)
}

// pause keeps all requests back for d.
func (s *slot) pause(d time.Duration) {
	until := time.Now().Add(min(d, maxPause))
	s.l.mu.Lock()
	if until.After(s.l.paused) {
		s.l.paused = until
	}
	s.l.mu.Unlock()
}

// retryAfter reads the header of that name, in seconds or as a date (RFC 9110).
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now)), true
	}
	return 0, false
}
