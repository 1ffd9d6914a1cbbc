// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestClaimSharedByAll(t *testing.T) {
	var claims Claims[int, string]
	var mine, got atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	release := make(chan struct{})
	for range 200 {
		wg.Go(func() {
			<-start
			c, own := claims.Get(7, 0)
			if own {
				mine.Add(1)
				w := claims.Start(t.Context(), []*Claim[int, string]{c})
				go func() {
					<-release
					c.Resolve("seven", nil)
					w.End(nil)
				}()
			}
			if v, err, _, _ := c.Wait(t.Context()); v == "seven" && err == nil {
				got.Add(1)
			}
		})
	}
	close(start)
	for claims.Len() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	close(release)
	wg.Wait()
	if mine.Load() != 1 || got.Load() != 200 {
		t.Fatalf("%d owners, %d of 200 values; want one owner", mine.Load(), got.Load())
	}
	if claims.Len() != 0 {
		t.Fatal("a claim is left")
	}
	if _, own := claims.Get(7, 0); !own {
		t.Fatal("a resolved key cannot be claimed again")
	}
}

func TestClaimTry(t *testing.T) {
	var claims Claims[int, string]
	c := claims.Try(1, 0)
	if c == nil || claims.Try(1, 0) != nil {
		t.Fatal("Try must succeed once")
	}
	if c.Waiting() {
		t.Fatal("Try made a waiter")
	}
	j, own := claims.Get(1, 0)
	if own || j != c || !c.Waiting() {
		t.Fatal("Get did not join the claim that Try made")
	}
	c.Resolve("x", nil)
	c.Resolve("y", errors.New("late"))
	if v, err, _, _ := j.Wait(t.Context()); v != "x" || err != nil {
		t.Fatalf("got %q, %v; the first Resolve counts", v, err)
	}
}

// TestClaimWaitersLeave covers all orders in which waiters of one work leave.
func TestClaimWaitersLeave(t *testing.T) {
	var claims Claims[int, string]
	c1, _ := claims.Get(1, 0)
	c2, _ := claims.Get(2, 0)
	w := claims.Start(t.Context(), []*Claim[int, string]{c1})
	w.Add(c2)
	c1b, own := claims.Get(1, 0)
	if own || w.Waiters() != 3 {
		t.Fatalf("own %v, %d waiters, want 3", own, w.Waiters())
	}
	w.Failed(errors.New("no route"))
	leave := func(c *Claim[int, string]) error {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, context.DeadlineExceeded)
		defer cancel()
		_, err, own, attempt := c.Wait(ctx)
		if !own || !errors.Is(err, context.DeadlineExceeded) || attempt == nil {
			t.Fatalf("leaving gave %v, own %v, attempt %v", err, own, attempt)
		}
		return w.Context().Err()
	}
	if leave(c1) != nil {
		t.Fatal("work ended with two waiters left")
	}
	if leave(c2) != nil {
		t.Fatal("work ended with one waiter left")
	}
	if leave(c1b) == nil {
		t.Fatal("work goes on without waiters")
	}
	if claims.Len() != 0 {
		t.Fatal("abandoned claims can still be joined")
	}
	n1, own1 := claims.Get(1, 0)
	if !own1 || n1 == c1 {
		t.Fatal("an abandoned key cannot be claimed anew")
	}
	w.End(errors.New("late"))
	if claims.Len() != 1 {
		t.Fatal("the end of old work took away a new claim")
	}
}

// TestClaimSatisfied: waiters who got what they wanted do not end the work.
func TestClaimSatisfied(t *testing.T) {
	var claims Claims[int, string]
	c1, _ := claims.Get(1, 0)
	c2 := claims.Try(2, 0)
	w := claims.Start(t.Context(), []*Claim[int, string]{c1, c2})
	c1.Resolve("one", nil)
	if v, err, _, _ := c1.Wait(t.Context()); v != "one" || err != nil {
		t.Fatal(v, err)
	}
	if w.Context().Err() != nil || w.Waiters() != 0 {
		t.Fatalf("context %v, %d waiters", w.Context().Err(), w.Waiters())
	}
	w.End(errors.New("gave up"))
	if w.Context().Err() == nil || claims.Len() != 0 {
		t.Fatal("End left something")
	}
}

func TestClaimStress(t *testing.T) {
	var claims Claims[int, int]
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 500 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%5)*50*time.Microsecond)
				key := i % 7
				c, own := claims.Get(key, 0)
				if own {
					w := claims.Start(t.Context(), []*Claim[int, int]{c})
					go func() {
						if g%3 == 0 {
							<-w.Context().Done()
						} else {
							c.Resolve(key, nil)
						}
						w.End(errors.New("ended"))
					}()
				}
				if v, err, _, _ := c.Wait(ctx); err == nil && v != key {
					t.Errorf("key %d has value %d", key, v)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(5 * time.Second); claims.Len() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d claims are left", claims.Len())
		}
	}
}

func TestClaimForeign(t *testing.T) {
	var claims Claims[int, int]
	c, _ := claims.Get(1, "a")
	w := claims.Start(t.Context(), []*Claim[int, int]{c})
	claims.Get(1, "a")
	if w.Foreign() {
		t.Error("the owner is foreign")
	}
	claims.Get(1, "b")
	if !w.Foreign() {
		t.Error("b is not foreign")
	}
	c.Resolve(1, nil)
	if w.Foreign() {
		t.Error("foreign after all is resolved")
	}
	w.End(nil)
}

// TestClaimDeliver: delivered means that all have it, those as well who come
// before the key is free.
func TestClaimDeliver(t *testing.T) {
	var claims Claims[int, string]
	c, _ := claims.Get(1, 0)
	w := claims.Start(t.Context(), []*Claim[int, string]{c})
	c.Deliver("one")
	c.Deliver("two")
	late, own := claims.Get(1, 0)
	if own || claims.Len() != 1 || claims.Try(1, 0) != nil {
		t.Fatal("a delivered key is free")
	}
	for _, c := range []*Claim[int, string]{c, late} {
		if v, err, _, _ := c.Wait(t.Context()); v != "one" || err != nil {
			t.Errorf("got %q, %v", v, err)
		}
	}
	if w.Waiters() != 0 || w.Context().Err() != nil {
		t.Errorf("%d waiters, %v", w.Waiters(), w.Context().Err())
	}
	w.End(errors.New("late"))
	if v, err, _, _ := late.Wait(t.Context()); v != "one" || err != nil || claims.Len() != 0 {
		t.Errorf("after the end: %q, %v, %d claims", v, err, claims.Len())
	}
}
