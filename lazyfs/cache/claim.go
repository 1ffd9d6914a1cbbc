// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"context"
	"sync"
)

// Claims decides who fetches what. Under one lock a caller either joins the
// claim that somebody has on a key or gets it; whoever gets it looks into the
// cache again (the holder before may just have left), then resolves it, or
// hands it to a Work that will. The zero value is ready.
type Claims[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]*Claim[K, V]
}

// Claim is the right, and the duty, to get the value of one key.
type Claim[K comparable, V any] struct {
	Key K

	table *Claims[K, V]
	done  chan struct{}
	val   V     // written before done is closed
	err   error // the same

	// Guarded by table.mu.
	work     *Work[K, V]
	owner    any
	foreign  bool // somebody who is not the owner has joined
	waiters  int
	resolved bool
}

// Work is one fetch for some claims. Its context ends when the last one who
// waited for any of them has given up; that they got what they wanted does not
// end it.
type Work[K comparable, V any] struct {
	table  *Claims[K, V]
	ctx    context.Context
	cancel context.CancelFunc

	// Guarded by table.mu.
	claims  []*Claim[K, V]
	waiters int
	lastErr error
}

// Get returns the claim on key and whether it is the caller's to resolve. The
// caller counts as a waiter either way and must call Wait. Callers with equal
// owners have the same means to get the value, see Work.Foreign.
func (t *Claims[K, V]) Get(key K, owner any) (c *Claim[K, V], mine bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, mine = t.get(key, owner)
	c.foreign = c.foreign || c.owner != owner
	if c.resolved {
		return c, mine
	}
	c.waiters++
	if c.work != nil {
		c.work.waiters++
	}
	return c, mine
}

// Try returns a claim on key for nobody in particular, or nil if there is one.
func (t *Claims[K, V]) Try(key K, owner any) *Claim[K, V] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m[key] != nil {
		return nil
	}
	c, _ := t.get(key, owner)
	return c
}

func (t *Claims[K, V]) get(key K, owner any) (c *Claim[K, V], mine bool) {
	if c = t.m[key]; c != nil {
		return c, false
	}
	if t.m == nil {
		t.m = map[K]*Claim[K, V]{}
	}
	c = &Claim[K, V]{Key: key, table: t, owner: owner, done: make(chan struct{})}
	t.m[key] = c
	return c, true
}

// Len is the number of unresolved claims.
func (t *Claims[K, V]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}

// Start binds unresolved claims of the caller to one piece of work whose
// context descends from ctx. End must be called when it is over.
func (t *Claims[K, V]) Start(ctx context.Context, claims []*Claim[K, V]) *Work[K, V] {
	w := &Work[K, V]{table: t, claims: claims}
	w.ctx, w.cancel = context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range claims {
		c.work = w
		w.waiters += c.waiters
	}
	return w
}

// Add binds one more claim of the work's owner.
func (w *Work[K, V]) Add(c *Claim[K, V]) {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	w.claims = append(w.claims, c)
	c.work = w
	w.waiters += c.waiters
}

// Context ends when nobody waits any more, or its parent has ended.
func (w *Work[K, V]) Context() context.Context { return w.ctx }

// Waiters is the number of those who wait for any claim of the work.
func (w *Work[K, V]) Waiters() int {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	return w.waiters
}

// Foreign says whether somebody waits who is not the owner: if the work gets
// nowhere, that one may do better.
func (w *Work[K, V]) Foreign() bool {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	for _, c := range w.claims {
		if c.foreign && !c.resolved {
			return true
		}
	}
	return false
}

// Failed notes why an attempt failed, for those who give up waiting.
func (w *Work[K, V]) Failed(err error) {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	w.lastErr = err
}

// End resolves the claims that are left with err and releases the context.
func (w *Work[K, V]) End(err error) {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	w.stop(err)
}

func (w *Work[K, V]) stop(err error) {
	for _, c := range w.claims {
		var none V
		c.resolve(none, err)
	}
	w.cancel()
}

// Waiting says whether anybody waits for this claim.
func (c *Claim[K, V]) Waiting() bool {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	return c.waiters > 0
}

// Deliver hands the value to all who wait, and to all who join until Resolve
// frees the key: so that nobody waits for it to be stored, and nobody gets it
// anew before it is. It does nothing after Resolve.
func (c *Claim[K, V]) Deliver(v V) {
	t := c.table
	t.mu.Lock()
	defer t.mu.Unlock()
	c.deliver(v, nil)
}

// Resolve hands the value or the error to all who wait, and frees the key. What
// was delivered or resolved before stays so.
func (c *Claim[K, V]) Resolve(v V, err error) {
	t := c.table
	t.mu.Lock()
	defer t.mu.Unlock()
	c.resolve(v, err)
}

func (c *Claim[K, V]) resolve(v V, err error) {
	c.deliver(v, err)
	if c.table.m[c.Key] == c {
		delete(c.table.m, c.Key)
	}
}

func (c *Claim[K, V]) deliver(v V, err error) {
	if c.resolved {
		return
	}
	c.resolved = true
	if c.work != nil {
		c.work.waiters -= c.waiters
	}
	c.val, c.err = v, err
	close(c.done)
}

// Wait returns what the claim was resolved with, or gives up when ctx ends:
// then attempt is why the work's last attempt failed, if one did. own says
// that err is of ctx.
func (c *Claim[K, V]) Wait(ctx context.Context) (v V, err error, own bool, attempt error) {
	select {
	case <-c.done:
		return c.val, c.err, false, nil
	default:
	}
	select {
	case <-c.done:
		return c.val, c.err, false, nil
	case <-ctx.Done():
		return v, context.Cause(ctx), true, c.leave()
	}
}

// leave takes one waiter away; the last one of a work ends it.
func (c *Claim[K, V]) leave() (attempt error) {
	t := c.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.resolved {
		return nil
	}
	c.waiters--
	w := c.work
	if w == nil {
		return nil
	}
	if w.waiters--; w.waiters == 0 {
		// Nobody may join what is about to stop.
		w.stop(context.Canceled)
	}
	return w.lastErr
}
