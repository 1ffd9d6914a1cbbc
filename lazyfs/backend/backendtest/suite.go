// SPDX-License-Identifier: Apache-2.0

// Package backendtest tests stores of blobs: a suite of the behaviour that every
// store and every wrapper of one must have, and a registry that misbehaves on
// demand.
package backendtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// Blob and Opener have the shape of the types of package backend.
type (
	Blob = interface {
		ReadAt(ctx context.Context, p []byte, off int64) (int, error)
		Size() int64
	}
	Opener = interface {
		Open(ctx context.Context, blobID string) (Blob, error)
	}
)

// Random returns n bytes that depend on n and seed only.
func Random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8(sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(seed)}))
	r.Read(b)
	return b
}

// ID returns the hex name of a blob.
func ID(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Context returns a context that ends with the test, at the latest after d.
func Context(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// Open opens the blob of content and checks its size.
func Open(t testing.TB, ctx context.Context, o Opener, content []byte) Blob {
	t.Helper()
	b, err := o.Open(ctx, ID(content))
	if err != nil {
		t.Fatal(err)
	}
	if b.Size() != int64(len(content)) {
		t.Fatalf("size %d, want %d", b.Size(), len(content))
	}
	return b
}

// Read reads n bytes at off, with want as the whole content, and compares.
func Read(t testing.TB, ctx context.Context, b Blob, want []byte, off, n int) {
	t.Helper()
	p := bytes.Repeat([]byte{0xEE}, n)
	got, err := b.ReadAt(ctx, p, int64(off))
	exist := max(0, min(n, len(want)-off))
	if got != exist {
		t.Fatalf("read %d bytes at %d: got %d, want %d (%v)", n, off, got, exist, err)
	}
	if exist < n && err != io.EOF || exist == n && err != nil {
		t.Fatalf("read %d bytes at %d of %d: error %v", n, off, len(want), err)
	}
	if exist > 0 && !bytes.Equal(p[:got], want[off:off+got]) {
		t.Fatalf("read %d bytes at %d: wrong bytes", n, off)
	}
}

// Suite runs all tests of a store's behaviour. build returns a store that holds
// exactly the given contents.
func Suite(t *testing.T, build func(t *testing.T, contents ...[]byte) Opener) {
	big := Random(3<<20+17, 1)
	t.Run("Ranges", func(t *testing.T) {
		b := Open(t, Context(t, time.Minute), build(t, big), big)
		ctx := Context(t, time.Minute)
		for _, r := range [][2]int{
			{0, 1}, {0, 0}, {1, 4096}, {0, len(big)}, {len(big) - 1, 1}, {len(big) - 5, 10},
			{len(big), 1}, {len(big) + 100, 4}, {1 << 20, 1 << 20}, {len(big), 0}, {4095, 2},
		} {
			Read(t, ctx, b, big, r[0], r[1])
		}
	})
	t.Run("Sizes", func(t *testing.T) {
		for _, n := range []int{0, 1, 4096} {
			content := Random(n, 2)
			ctx := Context(t, time.Minute)
			b := Open(t, ctx, build(t, content), content)
			Read(t, ctx, b, content, 0, n)
			Read(t, ctx, b, content, 0, n+1)
		}
	})
	t.Run("NegativeOffset", func(t *testing.T) {
		ctx := Context(t, time.Minute)
		b := Open(t, ctx, build(t, big), big)
		if n, err := b.ReadAt(ctx, make([]byte, 1), -1); err == nil || n != 0 {
			t.Fatalf("got %d, %v", n, err)
		}
	})
	t.Run("Prefix", func(t *testing.T) {
		ctx := Context(t, time.Minute)
		b, err := build(t, big).Open(ctx, "sha256:"+ID(big))
		if err != nil {
			t.Fatal(err)
		}
		Read(t, ctx, b, big, 77, 99)
	})
	t.Run("Absent", func(t *testing.T) {
		_, err := build(t, big).Open(Context(t, time.Minute), ID([]byte("absent")))
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("error of an absent blob: %v", err)
		}
		if !strings.Contains(err.Error(), ID([]byte("absent"))) {
			t.Fatalf("error does not name the blob: %v", err)
		}
	})
	t.Run("BadID", func(t *testing.T) {
		o := build(t, big)
		for _, id := range []string{
			"", "x", "../../../etc/passwd", strings.Repeat("A", 64), strings.Repeat("x", 64), "sha512:" + ID(big),
			ID(big) + "0", ID(big)[:63], "sha256:sha256:" + ID(big), "../" + ID(big), "/" + ID(big)[1:], strings.Repeat("../", 22)[:64],
		} {
			if _, err := o.Open(Context(t, time.Minute), id); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("id %q: error %v", id, err)
			}
		}
	})
	t.Run("Cancelled", func(t *testing.T) {
		o := build(t, big)
		b := Open(t, Context(t, time.Minute), o, big)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := b.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("read: %v", err)
		}
		if _, err := o.Open(ctx, ID(big)); !errors.Is(err, context.Canceled) {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("Concurrent", func(t *testing.T) {
		ctx := Context(t, time.Minute)
		b := Open(t, ctx, build(t, big), big)
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 9))
				for range 20 {
					off, n := r.IntN(len(big)), r.IntN(64<<10)
					p := make([]byte, n)
					got, err := b.ReadAt(ctx, p, int64(off))
					if err != nil && (err != io.EOF || off+n <= len(big)) || !bytes.Equal(p[:got], big[off:off+got]) ||
						got != min(n, len(big)-off) {
						t.Errorf("read %d bytes at %d: %d, %v", n, off, got, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}
