// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

// opener is a store made of a function.
type opener func(ctx context.Context, id string) (Blob, error)

func (o opener) Open(ctx context.Context, id string) (Blob, error) { return o(ctx, id) }

// TestChainAbsent: the blob is surely absent only if all stores say so.
func TestChainAbsent(t *testing.T) {
	t.Parallel()
	absent := backend.NewDir(t.TempDir())
	broken := opener(func(context.Context, string) (Blob, error) { return nil, errors.New("broken") })
	slow := opener(func(ctx context.Context, _ string) (Blob, error) { <-ctx.Done(); return nil, ctx.Err() })
	for name, tt := range map[string]struct {
		chain  backend.Opener
		absent bool
	}{
		"none":           {backend.Chain(), true},
		"one":            {backend.Chain(absent), true},
		"two":            {backend.Chain(absent, absent), true},
		"broken first":   {backend.Chain(broken, absent), false},
		"broken last":    {backend.Chain(absent, absent, broken), false},
		"slow first":     {backend.Chain(slow, absent), false},
		"slow last":      {backend.Chain(absent, slow), false},
		"slow and alone": {backend.Chain(slow), false},
	} {
		ctx := Context(t, 200*time.Millisecond)
		_, err := tt.chain.Open(ctx, ID([]byte(name)))
		if err == nil || errors.Is(err, fs.ErrNotExist) != tt.absent {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChainSlow: a store that does not answer leaves time for the next, is then
// avoided, and gets the rest of the time when nobody else has the blob.
func TestChainSlow(t *testing.T) {
	t.Parallel()
	content := Random(10_000, 50)
	var asked atomic.Int64
	dead := opener(func(ctx context.Context, _ string) (Blob, error) {
		asked.Add(1)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c := backend.Chain(dead, backend.NewDir(fill(t, "", content)))
	start := time.Now()
	b := Open(t, Context(t, 2*time.Second), c, content)
	if d := time.Since(start); d < 500*time.Millisecond {
		t.Errorf("the first store got %v of 2 s", d)
	}
	for range 3 {
		Read(t, Context(t, time.Minute), Open(t, Context(t, time.Minute), c, content), content, 5, 100)
	}
	Read(t, Context(t, time.Minute), b, content, 5, 100)
	if n := asked.Load(); n != 1 {
		t.Errorf("the dead store was asked %d times", n)
	}

	r := NewRegistry(t, Config{Fault: always(Error500), NoHead: true}, content)
	time.AfterFunc(2*time.Second, func() { r.Change(func(c *Config) { c.Fault = nil }) })
	late := backend.Chain(client(t, backend.RegistryOptions{}).Repository(r.Name()), backend.NewDir(t.TempDir()))
	Open(t, Context(t, 3800*time.Millisecond), late, content) // its first share ends before
}

// TestChainFailover: a store that breaks between reads is replaced.
func TestChainFailover(t *testing.T) {
	t.Parallel()
	content := Random(10_000, 51)
	a, b := NewRegistry(t, Config{}, content), NewRegistry(t, Config{}, content)
	c := client(t, backend.RegistryOptions{})
	blob := Open(t, Context(t, time.Minute), backend.Chain(c.Repository(a.Name()), c.Repository(b.Name())), content)
	Read(t, Context(t, time.Minute), blob, content, 0, 500)
	a.Change(func(c *Config) { c.Fault = always(Forbidden) })
	Read(t, Context(t, time.Minute), blob, content, 500, 500)
	if n := len(b.Seen(http.MethodGet, "/blobs/")); n != 1 {
		t.Fatalf("the second registry saw %d reads", n)
	}
	b.Change(func(c *Config) { c.Fault = always(NotFound) })
	_, err := blob.ReadAt(Context(t, time.Minute), make([]byte, 10), 0)
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	a.Change(func(c *Config) { c.Fault = nil })
	Read(t, Context(t, time.Minute), blob, content, 700, 500)
}

// TestChainSizes: a store whose blob has another size is not read from.
func TestChainSizes(t *testing.T) {
	t.Parallel()
	content := Random(1000, 52)
	good := NewRegistry(t, Config{}, content)
	short := opener(func(context.Context, string) (Blob, error) { return sized(999), nil })
	c := backend.Chain(client(t, backend.RegistryOptions{}).Repository(good.Name()), short)
	b := Open(t, Context(t, time.Minute), c, content)
	good.Change(func(c *Config) { c.Fault = always(Forbidden) })
	if _, err := b.ReadAt(Context(t, time.Minute), make([]byte, 10), 0); err == nil {
		t.Fatal("read from a blob of another size")
	}
}

type sized int64

func (s sized) Size() int64                                              { return int64(s) }
func (s sized) ReadAt(_ context.Context, p []byte, _ int64) (int, error) { return len(p), nil }

// TestChainClose: closing a blob closes it in all stores where it is open.
func TestChainClose(t *testing.T) {
	t.Parallel()
	content := Random(1000, 53)
	a, b := &closing{}, &closing{}
	use := func(c *closing) opener { return func(context.Context, string) (Blob, error) { return c, nil } }
	blob, err := backend.Chain(use(a), use(b)).Open(t.Context(), ID(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := blob.(io.Closer).Close(); err != nil || a.closed != 1 || b.closed != 0 {
		t.Errorf("closed %d and %d times: %v", a.closed, b.closed, err)
	}
}

type closing struct {
	sized
	closed int
}

func (c *closing) Close() error { c.closed++; return nil }
