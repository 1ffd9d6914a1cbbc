// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

// TestFaultOnce: after one fault a read gives the right bytes, whatever it was.
func TestFaultOnce(t *testing.T) {
	t.Parallel()
	content := Random(300_000, 3)
	for name, f := range map[string]Fault{
		"reset": Reset, "reset early": ResetEarly, "short body": ShortBody, "short range": ShortRange, "wrong range": WrongRange,
		"wrong label": WrongLabel, "no range": NoRange, "bad range": BadRange, "wrong total": WrongTotal, "wrong length": WrongLength,
		"long body": LongBody, "chunked": Chunked, "whole": Whole, "whole short": WholeShort, "gzip": Gzip, "416": Unsatisfiable,
		"500": Error500, "503": Error503, "429": TooMany, "429 wait": TooManyWait, "stall": Stall, "stall early": StallEarly,
		"trickle": Trickle, "404 of a gateway": NotFoundPlain, "garbage": Garbage,
	} {
		for where, c := range map[string]Config{
			"": {}, " at the redirected host": {Redirect: time.Minute}, " with HTTP2": {TLS: true, HTTP2: true},
		} {
			t.Run(name+where, func(t *testing.T) {
				t.Parallel()
				r := NewRegistry(t, c, content)
				ctx := Context(t, time.Minute)
				o := backend.RegistryOptions{IdleTimeout: time.Second}
				if c.TLS {
					o.Transport = trusting(r)
				}
				b := Open(t, ctx, client(t, o).Repository(r.Name()), content)
				Read(t, ctx, b, content, 0, 1000) // knows the location
				var done atomic.Bool
				r.Change(func(c *Config) {
					c.Fault = func(int, *http.Request) Fault {
						if done.CompareAndSwap(false, true) {
							return f
						}
						return OK
					}
				})
				Read(t, ctx, b, content, 12_345, 200_000)
				Read(t, ctx, b, content, 250_000, 60_000)
				if !done.Load() {
					t.Fatal("the fault did not happen")
				}
			})
		}
	}
}

// TestFaultAlways: a fault that stays ends in a clear error within the deadline,
// never in wrong bytes.
func TestFaultAlways(t *testing.T) {
	t.Parallel()
	content := Random(300_000, 4)
	tests := map[string]struct {
		f    Fault
		want string
		is   error // nil: some other error than those of the classes
		fast bool  // does not wait for the deadline
	}{
		"reset early":      {ResetEarly, "", context.DeadlineExceeded, false},
		"wrong range":      {WrongRange, "instead of", nil, true},
		"wrong label":      {WrongLabel, "instead of", nil, true},
		"no range":         {NoRange, "no valid Content-Range", nil, true},
		"bad range":        {BadRange, "no valid Content-Range", nil, true},
		"wrong total":      {WrongTotal, "300009 bytes now", nil, true},
		"wrong length":     {WrongLength, "body of 5001 bytes", nil, true},
		"long body":        {LongBody, "more bytes than the range has", nil, true},
		"whole short":      {WholeShort, "body of 299999 bytes", nil, true},
		"gzip":             {Gzip, `encoding "gzip"`, nil, true},
		"416":              {Unsatisfiable, "out of range", nil, true},
		"500":              {Error500, "500 Internal Server Error: UNKNOWN disk on fire", context.DeadlineExceeded, false},
		"503":              {Error503, "too many requests", context.DeadlineExceeded, false},
		"429":              {TooMany, "429 Too Many Requests: TOOMANYREQUESTS slow down", context.DeadlineExceeded, false},
		"429 for an hour":  {TooManyLong, "not to be asked again for", context.DeadlineExceeded, true},
		"stall early":      {StallEarly, "no data for too long", context.DeadlineExceeded, false},
		"401":              {Unauthorized, "401 Unauthorized: UNAUTHORIZED no", fs.ErrPermission, true},
		"403":              {Forbidden, "403 Forbidden: DENIED", fs.ErrPermission, true},
		"404":              {NotFound, "404 Not Found: BLOB_UNKNOWN", fs.ErrNotExist, true},
		"404 of a gateway": {NotFoundPlain, "404 Not Found", fs.ErrNotExist, true},
		"400":              {BadRequest, "400 Bad Request", nil, true},
		"garbage":          {Garbage, "malformed HTTP", context.DeadlineExceeded, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, Config{}, content)
			b := Open(t, Context(t, time.Minute), client(t, backend.RegistryOptions{IdleTimeout: time.Second}).Repository(r.Name()), content)
			r.Change(func(c *Config) { c.Fault = always(tt.f) })
			p := make([]byte, 5000)
			deadline := 2 * time.Second
			if tt.fast {
				deadline = time.Minute
			}
			start := time.Now()
			n, err := b.ReadAt(Context(t, deadline), p, 1000)
			took := time.Since(start)
			if err == nil || !bytes.Equal(p[:n], content[1000:1000+n]) {
				t.Fatalf("%d bytes, error %v", n, err)
			}
			for _, want := range []string{tt.want, ID(content), r.Name()} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			for _, class := range []error{context.DeadlineExceeded, fs.ErrPermission, fs.ErrNotExist} {
				if errors.Is(err, class) != (class == tt.is) {
					t.Errorf("%v: is %v: %v", err, class, errors.Is(err, class))
				}
			}
			if took > 20*time.Second {
				t.Errorf("took %v", took)
			}
			if strings.Contains(err.Error(), Signature) {
				t.Errorf("%v quotes a query", err)
			}
			r.Change(func(c *Config) { c.Fault = nil })
			if tt.f != TooManyLong {
				Read(t, Context(t, time.Minute), b, content, 1000, 5000)
			}
		})
	}
}

// TestResume: what came before a break is not fetched again.
func TestResume(t *testing.T) {
	t.Parallel()
	content := Random(1<<20, 5)
	for name, f := range map[string]Fault{"short body": ShortBody, "stall": Stall, "trickle": Trickle} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, Config{Fault: func(n int, _ *http.Request) Fault {
				if n <= 3 {
					return f
				}
				return OK
			}}, content)
			ctx := Context(t, time.Minute)
			b := Open(t, ctx, client(t, backend.RegistryOptions{IdleTimeout: time.Second}).Repository(r.Name()), content)
			Read(t, ctx, b, content, 0, len(content))
			want := 0
			for _, q := range r.Seen("GET", "/blobs/") {
				var first, last int
				if !parseRange(q.Header.Get("Range"), &first, &last) || first < want || last != len(content)-1 {
					t.Fatalf("range %q after %d", q.Header.Get("Range"), want)
				}
				want = first + (last-first+1)/2 - 64<<10
			}
		})
	}
}

// TestOutage: a registry that is away during a read and comes back is a pause.
func TestOutage(t *testing.T) {
	t.Parallel()
	content := Random(100_000, 6)
	for name, f := range map[string]Fault{"resets": ResetEarly, "errors": Error500, "stalls": StallEarly} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRegistry(t, Config{}, content)
			b := Open(t, Context(t, time.Minute), client(t, backend.RegistryOptions{IdleTimeout: time.Second}).Repository(r.Name()), content)
			r.Change(func(c *Config) { c.Fault = always(f) })
			time.AfterFunc(3*time.Second, func() { r.Change(func(c *Config) { c.Fault = nil }) })
			start := time.Now()
			Read(t, Context(t, time.Minute), b, content, 5, 50_000)
			if d := time.Since(start); d < 2*time.Second || d > 30*time.Second {
				t.Fatalf("took %v", d)
			}
			if n := len(r.Seen("GET", "/blobs/")); n > 40 {
				t.Fatalf("%d requests during 3 s of outage", n)
			}
		})
	}
}

// TestOpenRetries: opening survives what passes, and says what does not.
func TestOpenRetries(t *testing.T) {
	t.Parallel()
	content := Random(1000, 7)
	r := NewRegistry(t, Config{NoHead: true, Fault: func(n int, _ *http.Request) Fault {
		return []Fault{ResetEarly, Error500, StallEarly, OK}[min(n-1, 3)]
	}}, content)
	ctx := Context(t, time.Minute)
	o := client(t, backend.RegistryOptions{IdleTimeout: time.Second}).Repository(r.Name())
	Read(t, ctx, Open(t, ctx, o, content), content, 0, 1000)

	r.Change(func(c *Config) { c.Fault = always(Error500) })
	_, err := o.Open(Context(t, 500*time.Millisecond), ID(content))
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "500 Internal") {
		t.Fatal(err)
	}
}

// TestOpenAsksOnce: one request where HEAD tells the size.
func TestOpenAsksOnce(t *testing.T) {
	t.Parallel()
	content := Random(1000, 8)
	r := NewRegistry(t, Config{}, content)
	ctx := Context(t, time.Minute)
	o := client(t, backend.RegistryOptions{}).Repository(r.Name())
	Open(t, ctx, o, content)
	Open(t, ctx, o, content)
	if n := len(r.Seen("", "/blobs/")); n != 2 {
		t.Fatalf("%d requests for two opens", n)
	}
	if _, err := o.Open(ctx, ID(nil)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "BLOB_UNKNOWN") {
		t.Fatal(err)
	}
	other := client(t, backend.RegistryOptions{}).Repository(r.Host + "/other/repo")
	if _, err := other.Open(ctx, ID(content)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "NAME_UNKNOWN") {
		t.Fatal(err)
	}
}

// TestOpenWithoutHead: the size from a ranged GET is right or there is an error.
func TestOpenWithoutHead(t *testing.T) {
	t.Parallel()
	content := Random(1000, 17)
	for name, tt := range map[string]struct {
		f    Fault
		want string // "": opens
	}{
		"right": {OK, ""}, "chunked": {Chunked, ""}, "whole": {Whole, ""}, "no range": {NoRange, "no valid Content-Range"},
		"bad range": {BadRange, "no valid Content-Range"}, "gzip": {Gzip, "encoding"}, "416": {Unsatisfiable, "first byte of 1000"},
		"403": {Forbidden, "403"}, "404": {NotFound, "BLOB_UNKNOWN"}, "400": {BadRequest, "400"},
	} {
		r := NewRegistry(t, Config{NoHead: true, Fault: always(tt.f)}, content)
		b, err := client(t, backend.RegistryOptions{}).Repository(r.Name()).Open(Context(t, time.Minute), ID(content))
		if tt.want == "" && (err != nil || b.Size() != 1000) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBadNames: a bad repository name is told when it is used.
func TestBadNames(t *testing.T) {
	t.Parallel()
	c := client(t, backend.RegistryOptions{})
	for _, name := range []string{"", "UPPER/case", "host.example/", "host.example/a b", "host.example/../x", "host.example/a/../../x", "host.example//x", "host.example/x/", "a:b:c/d"} {
		_, err := c.Repository(name).Open(Context(t, time.Minute), ID(nil))
		if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
