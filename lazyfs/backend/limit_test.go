// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestLimiterHalvesAndRecovers(t *testing.T) {
	l := newLimiter(16)
	ctx := t.Context()
	var slots []*slot
	for range 16 {
		s, err := l.acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, s)
	}
	for _, s := range slots { // a burst that was running together counts once
		s.throttled()
		s.release()
	}
	if got := l.current(); got != 8 {
		t.Fatalf("limit after a burst of 429: %d", got)
	}
	for range 10 {
		s, _ := l.acquire(ctx)
		time.Sleep(time.Millisecond)
		s.throttled()
		s.release()
	}
	if got := l.current(); got != 1 {
		t.Fatalf("limit after ten more: %d", got)
	}
	for n := 0; l.current() < 16; n++ {
		s, err := l.acquire(ctx)
		if err != nil || n > 1000 {
			t.Fatalf("after %d successes: limit %d, %v", n, l.current(), err)
		}
		s.succeeded()
		s.release()
	}
	if !l.idle() {
		t.Error("not idle when nothing runs")
	}
}

func TestLimiterBounds(t *testing.T) {
	l := newLimiter(3)
	var running, peak, done atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			if i%3 == 0 { // leaves the queue early
				time.AfterFunc(time.Duration(i)*20*time.Microsecond, cancel)
			}
			defer cancel()
			s, err := l.acquire(ctx)
			if err != nil {
				return
			}
			n := running.Add(1)
			for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
			}
			time.Sleep(100 * time.Microsecond)
			running.Add(-1)
			s.release()
			s.release()
			done.Add(1)
		})
	}
	wg.Wait()
	if peak.Load() != 3 || done.Load() < 130 {
		t.Fatalf("peak %d, done %d", peak.Load(), done.Load())
	}
	if l.running != 0 || len(l.queue) != 0 {
		t.Fatalf("%d running, %d queued at the end", l.running, len(l.queue))
	}
}

func TestLimiterPause(t *testing.T) {
	l := newLimiter(4)
	s, _ := l.acquire(t.Context())
	s.pause(300 * time.Millisecond)
	s.pause(time.Millisecond) // does not shorten it
	s.release()
	start := time.Now()
	if _, err := l.acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 250*time.Millisecond {
		t.Errorf("waited %v", d)
	}
	s.pause(time.Hour)
	if wait := time.Until(l.paused); wait > maxPause {
		t.Errorf("pause of %v", wait)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	start = time.Now()
	if _, err := l.acquire(ctx); !errors.Is(err, context.DeadlineExceeded) || judge(err) != permanent || time.Since(start) > time.Second {
		t.Errorf("pause beyond the deadline: %v after %v", err, time.Since(start))
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
		"": -1, "-1": -1, "soon": -1, "99999999999999999999": -1, "1.5": -1,
	} {
		d, ok := retryAfter(http.Header{"Retry-After": {v}}, now)
		if ok != (want >= 0) || ok && d != want {
			t.Errorf("%q: %v, %v", v, d, ok)
		}
	}
}
