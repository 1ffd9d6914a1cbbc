// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"
)

// envFD names the variable that tells the worker its end of the socket pair.
const envFD = "LIGHTER_KEEPER_FD"

// ErrGone is returned when the keeper does not exist any more.
var ErrGone = errors.New("keeper is gone")

// Client is the worker's end. Its methods may be called concurrently.
type Client struct {
	link      *link
	kept      []*Mount
	listeners map[string]*os.File
	crashes   int
	done      chan struct{}

	sendMu sync.Mutex

	mu    sync.Mutex
	n     uint64
	waits map[uint64]chan reply // nil once the keeper is gone
}

type reply struct {
	p     *packet
	files []*os.File
}

// Connect waits until the keeper that started this process makes it the
// worker, and receives all that is kept. It can be called once. A process that
// no keeper started gets fs.ErrNotExist.
func Connect() (*Client, error) {
	text, ok := os.LookupEnv(envFD)
	if !ok {
		return nil, fmt.Errorf("keeper: no %s: %w", envFD, fs.ErrNotExist)
	}
	fd, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("keeper: %s: %w", envFD, err)
	}
	os.Unsetenv(envFD) // not for our own children
	l, err := newLink(os.NewFile(uintptr(fd), "keeper"))
	if err != nil {
		return nil, err
	}
	c := &Client{link: l, done: make(chan struct{}), listeners: map[string]*os.File{}, waits: map[uint64]chan reply{}}
	if err := c.takeOver(); err != nil {
		return nil, errors.Join(fmt.Errorf("keeper: take over: %w", err), l.c.Close())
	}
	go c.receive()
	return c, nil
}

func (c *Client) takeOver() error {
	buf := make([]byte, maxPacket)
	hello, files, err := c.link.receive(buf)
	if err != nil {
		return err
	}
	if hello.Op != opHello || len(files) != len(hello.Listeners) {
		closeAll(files)
		return fmt.Errorf("%q with %d files", hello.Op, len(files))
	}
	for i, name := range hello.Listeners {
		c.listeners[name] = files[i]
	}
	c.crashes = hello.Crashes
	for range hello.Mounts {
		p, files, err := c.link.receive(buf)
		if err != nil {
			return err
		}
		m, err := p.mount(files)
		if err != nil {
			return err
		}
		c.kept = append(c.kept, m)
	}
	return nil
}

// Kept returns the mounts that an earlier worker left. The caller owns them.
func (c *Client) Kept() []*Mount { return c.kept }

// Listener returns the listening socket that the keeper was given under that
// name (os.File.Name), nil if there is none. The caller owns it.
func (c *Client) Listener(name string) *os.File { return c.listeners[name] }

// Crashes says how many workers before this one ended by themselves, soon after
// they had started, one after the other. It is 0 after one that was killed from
// outside. A reason may be among the requests that they left behind.
func (c *Client) Crashes() int { return c.crashes }

// Done is closed when the keeper is gone. The worker should end then: nothing
// would survive its own end, and mounts would stay behind.
func (c *Client) Done() <-chan struct{} { return c.done }

// Mount mounts a FUSE file system on target, an absolute path of a directory,
// and keeps it with meta. The result must be served before anybody touches the
// mount. An ID that is mounted already gives ErrExists.
func (c *Client) Mount(ctx context.Context, id, target string, meta []byte) (*Mount, error) {
	r, err := c.call(ctx, &packet{Op: opMount, ID: id, Target: target, Meta: meta})
	if err != nil {
		return nil, err
	}
	return r.p.mount(r.files)
}

// Ready returns when the root of a mount can be read.
func (c *Client) Ready(ctx context.Context, serial uint64) error {
	_, err := c.call(ctx, &packet{Op: opReady, Serial: serial})
	return err
}

// Unmount takes a mount away from its target. Who still uses it can go on, and
// the keeper keeps it until it is released.
func (c *Client) Unmount(ctx context.Context, serial uint64) error {
	_, err := c.call(ctx, &packet{Op: opUnmount, Serial: serial})
	return err
}

// Release makes the keeper forget a mount whose connection has ended.
func (c *Client) Release(ctx context.Context, serial uint64) error {
	_, err := c.call(ctx, &packet{Op: opRelease, Serial: serial})
	return err
}

// Close leaves everything to the keeper. The process should end after it.
func (c *Client) Close() error { return c.link.c.Close() }

// call sends a request and waits for its reply.
func (c *Client) call(ctx context.Context, p *packet) (reply, error) {
	if end, ok := ctx.Deadline(); ok {
		if p.Timeout = time.Until(end); p.Timeout <= 0 {
			return reply{}, context.DeadlineExceeded
		}
	}
	done := make(chan reply, 1)
	c.mu.Lock()
	if c.waits == nil {
		c.mu.Unlock()
		return reply{}, ErrGone
	}
	c.n++
	p.N = c.n
	c.waits[p.N] = done
	c.mu.Unlock()
	c.sendMu.Lock()
	err := c.link.send(p)
	c.sendMu.Unlock()
	if err != nil {
		c.forget(p.N)
		return reply{}, fmt.Errorf("keeper: %s: %w", p.Op, err)
	}
	select {
	case r, ok := <-done:
		if !ok {
			return reply{}, ErrGone
		}
		return r, r.err()
	case <-ctx.Done():
		if !c.forget(p.N) { // it has just come
			if r, ok := <-done; ok {
				return r, r.err()
			}
		}
		return reply{}, fmt.Errorf("keeper: %s: %w", p.Op, ctx.Err())
	}
}

// abandonTimeout bounds the removal of a mount that nobody waits for.
const abandonTimeout = 10 * time.Second

// abandon removes a mount whose caller has gone: nobody would serve it.
func (c *Client) abandon(serial uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	if c.Unmount(ctx, serial) == nil {
		c.Release(ctx, serial) // cannot fail but by the keeper's end
	}
}

// forget gives up waiting, and reports false if the reply is there already.
func (c *Client) forget(n uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.waits[n]
	delete(c.waits, n)
	return ok
}

// receive hands replies to those who wait.
func (c *Client) receive() {
	buf := make([]byte, maxPacket)
	for {
		p, files, err := c.link.receive(buf)
		if err != nil {
			break
		}
		c.mu.Lock()
		done := c.waits[p.N]
		delete(c.waits, p.N)
		c.mu.Unlock()
		if done == nil { // given up
			closeAll(files)
			if p.Serial != 0 {
				go c.abandon(p.Serial)
			}
			continue
		}
		done <- reply{p, files}
	}
	c.mu.Lock()
	for _, done := range c.waits {
		close(done)
	}
	c.waits = nil
	c.mu.Unlock()
	close(c.done)
}

// remoteError is an error of the keeper: its text, and what errors.Is can find.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func (r reply) err() error {
	if r.p.Error == "" {
		return nil
	}
	closeAll(r.files)
	e := &remoteError{text: r.p.Error}
	switch r.p.Errno {
	case 0:
	case errnoExists:
		e.is = ErrExists
	case errnoTimeout:
		e.is = context.DeadlineExceeded
	default:
		e.is = r.p.Errno
	}
	return e
}
