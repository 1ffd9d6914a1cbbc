// SPDX-License-Identifier: Apache-2.0

// Package link simulates a network link to one TCP server: all connections
// share its bandwidth, every byte is late by half the round-trip time, and the
// bytes are counted. It is a proxy on loopback; loss and congestion control are
// not simulated.
package link

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options describe a link. The zero value adds neither delay nor limit.
type Options struct {
	Rate int64         // bytes per second, in each direction; 0: no limit
	RTT  time.Duration // of a byte there and back
}

// Gigabit is a link of 1 Gbit/s and 2 ms.
var Gigabit = Options{Rate: 125_000_000, RTT: 2 * time.Millisecond}

// Link is a running proxy.
type Link struct {
	Addr string // where clients connect, "127.0.0.1:port"

	target   string
	o        Options
	listener net.Listener
	up, down lane

	mu     sync.Mutex
	conns  map[net.Conn]bool // nil when closed
	active sync.WaitGroup
}

// piece is the unit that is delayed: small against what a link holds in flight.
const piece = 16 << 10

// window is how many pieces of one connection may be on their way.
const window = 256

// New starts a proxy to target, "host:port".
func New(target string, o Options) (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	k := &Link{Addr: l.Addr().String(), target: target, o: o, listener: l, conns: map[net.Conn]bool{}}
	k.up.rate, k.down.rate = o.Rate, o.Rate
	k.active.Go(k.accept)
	return k, nil
}

// Bytes is what the server has sent through the link so far.
func (k *Link) Bytes() int64 { return k.down.bytes.Load() }

// Sent is how many bytes went to the target.
func (k *Link) Sent() int64 { return k.up.bytes.Load() }

// Close ends all connections and returns when they are gone.
func (k *Link) Close() error {
	k.mu.Lock()
	for c := range k.conns {
		c.Close()
	}
	k.conns = nil
	k.mu.Unlock()
	err := k.listener.Close()
	k.active.Wait()
	return err
}

func (k *Link) accept() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.active.Go(func() { k.serve(c) })
	}
}

func (k *Link) serve(client net.Conn) {
	defer client.Close()
	time.Sleep(k.o.RTT) // the handshake's
	server, err := net.Dial("tcp", k.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !k.keep(client, server) {
		return
	}
	defer k.drop(client, server)
	var both sync.WaitGroup
	both.Go(func() { k.carry(server, client, &k.up) })
	both.Go(func() { k.carry(client, server, &k.down) })
	both.Wait()
}

func (k *Link) keep(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conns == nil {
		return false
	}
	for _, c := range conns {
		k.conns[c] = true
	}
	return true
}

func (k *Link) drop(conns ...net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		delete(k.conns, c)
	}
}

// sent is a piece on its way.
type sent struct {
	data []byte
	due  time.Time
}

// carry copies src to dst through a lane until src ends.
func (k *Link) carry(dst, src net.Conn, l *lane) {
	way := make(chan sent, window)
	var arriving sync.WaitGroup
	arriving.Go(func() {
		failed := false
		for s := range way {
			time.Sleep(time.Until(s.due))
			if !failed {
				_, err := dst.Write(s.data)
				failed = err != nil
			}
		}
		if c, ok := dst.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
		if failed {
			src.Close()
		}
	})
	for {
		buf := make([]byte, piece)
		n, err := src.Read(buf)
		if n > 0 {
			through := l.pass(n)
			way <- sent{buf[:n], through.Add(k.o.RTT / 2)}
		}
		if err != nil {
			if err != io.EOF {
				dst.Close()
			}
			break
		}
	}
	close(way)
	arriving.Wait()
}

// lane is one direction of the link.
type lane struct {
	rate  int64
	bytes atomic.Int64

	mu   sync.Mutex
	free time.Time // when the last byte that was sent is through
}

// pass puts n bytes on the lane, waiting until those before have left, and
// returns when they will be through.
func (l *lane) pass(n int) time.Time {
	l.bytes.Add(int64(n))
	now := time.Now()
	if l.rate <= 0 {
		return now
	}
	l.mu.Lock()
	if l.free.Before(now) {
		l.free = now
	}
	start := l.free
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	through := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(start) - time.Millisecond) // a sleep may be that much too long
	return through
}
