// SPDX-License-Identifier: Apache-2.0

package format

import (
	"hash/crc32"
	"sync"

	"lighter/format/internal/disk"
)

// pipeline digests and compresses chunks on several goroutines and hands them
// to the builder in the order they were added.
//
//	room, add → work → workers → done ┐
//	          └────────→ order ───────┴→ deliver → free → room
//
// Small chunks share a batch. The number of batches bounds memory.
type pipeline struct {
	b       *layerBuilder
	current *batch
	seq     int64

	free  chan *batch // empty ones
	work  chan *batch // for the workers
	order chan *batch // the same, for deliver
	fails chan struct{}
	wg    sync.WaitGroup
	err   error // of deliver; valid when fails is closed
}

// batch is a buffer of chunks that one worker takes at once.
type batch struct {
	seq    int64
	data   []byte
	pieces []piece
	packed []byte // compressed chunks, one behind the other
	err    error
	done   chan struct{} // receives once when the worker has finished
}

// piece is one chunk of a file.
type piece struct {
	node   *node
	data   [2]int // where it lies in batch.data
	packed [2]int // where its compressed form lies in batch.packed
	digest [32]byte
	crc    uint32
	claim  *claim
	single bool              // the chunk is all of a file
	dict   *disk.ChunkRecord // the dictionary's chunk of this content
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (b *layerBuilder) startPipeline() *pipeline {
	n := 2*b.o.Workers + 2
	p := &pipeline{
		b: b, fails: make(chan struct{}),
		free: make(chan *batch, n), work: make(chan *batch, n), order: make(chan *batch, n),
	}
	for range n {
		p.free <- &batch{done: make(chan struct{}, 1)}
	}
	p.wg.Add(b.o.Workers + 1)
	for range b.o.Workers {
		go p.run()
	}
	go p.deliver()
	return p
}

// room returns a buffer of n bytes, at most a chunk, to be filled and added.
func (p *pipeline) room(n int) ([]byte, error) {
	if p.current != nil && len(p.current.data)+n > cap(p.current.data) {
		p.flush()
	}
	if p.current == nil {
		select {
		case <-p.fails:
			return nil, p.err
		case p.current = <-p.free:
		}
		if p.current.data == nil {
			p.current.data = make([]byte, 0, p.b.o.ChunkSize)
			p.current.packed = make([]byte, 0, p.b.o.ChunkSize+p.b.o.ChunkSize/8)
		}
	}
	used := len(p.current.data)
	return p.current.data[used : used+n : used+n], nil
}

// add takes over the buffer that room gave last as the next chunk of a file.
func (p *pipeline) add(n *node, buf []byte) {
	used := len(p.current.data)
	p.current.data = p.current.data[:used+len(buf)]
	p.current.pieces = append(p.current.pieces, piece{node: n, data: [2]int{used, used + len(buf)}, single: n.size == int64(len(buf))})
}

func (p *pipeline) flush() {
	p.current.seq = p.seq
	p.seq++
	p.work <- p.current
	p.order <- p.current
	p.current = nil
}

// finish waits for all chunks to be delivered and ends the goroutines.
func (p *pipeline) finish() error {
	if p.current != nil {
		p.flush()
	}
	close(p.work)
	close(p.order)
	p.wg.Wait()
	return p.err
}

// run is a worker.
func (p *pipeline) run() {
	defer p.wg.Done()
	for b := range p.work {
		b.err = p.process(b)
		b.done <- struct{}{}
	}
}

func (p *pipeline) process(b *batch) error {
	b.packed = b.packed[:0]
	for i := range b.pieces {
		c := &b.pieces[i]
		raw := b.data[c.data[0]:c.data[1]]
		c.digest = p.b.o.Digester.Sum(raw)
		var first bool
		c.claim, first = p.b.dedup.claim(chunkKey{c.digest, len(raw)}, b.seq<<32|int64(i))
		if !first {
			continue
		}
		if r, found := p.b.o.ChunkDict.find(chunkKey{c.digest, len(raw)}, p.b.o.Digester); found {
			c.dict = &r
			continue
		}
		c.crc = crc32.Checksum(raw, castagnoli)
		if p.b.compressor == None || p.b.batches.takes(c, len(raw)) {
			continue
		}
		start := len(b.packed)
		var err error
		if b.packed, err = p.b.compress(b.packed, raw); err != nil {
			return err
		}
		c.packed = [2]int{start, len(b.packed)}
	}
	return nil
}

// deliver gives the chunks to the builder. After an error it only empties the
// channels.
func (p *pipeline) deliver() {
	defer p.wg.Done()
	for b := range p.order {
		<-b.done
		if p.err == nil {
			if p.err = p.deliverBatch(b); p.err != nil {
				close(p.fails)
			}
		}
		clear(b.pieces)
		b.data, b.pieces = b.data[:0], b.pieces[:0]
		p.free <- b
	}
}

func (p *pipeline) deliverBatch(b *batch) error {
	if b.err != nil {
		return b.err
	}
	for i := range b.pieces {
		c := &b.pieces[i]
		if !c.claim.written {
			number := len(p.b.tree.chunks)
			if c.dict != nil {
				p.b.addDictChunk(*c.dict)
			} else if err := p.b.addChunk(c, b.data[c.data[0]:c.data[1]], b.packed[c.packed[0]:c.packed[1]]); err != nil {
				return err
			}
			c.claim.number, c.claim.written = uint32(number), true
		}
		c.node.chunks = append(c.node.chunks, c.claim.number)
	}
	return nil
}

// chunkKey identifies equal chunks.
type chunkKey struct {
	digest [32]byte
	size   int
}

// claim is one distinct chunk of the layer.
type claim struct {
	seq     int64  // of the earliest piece seen with this content; guarded by dedup.mu
	written bool   // this and number belong to deliver
	number  uint32 // index of tree.chunks
}

// dedup finds equal chunks while they are still on their way.
type dedup struct {
	mu     sync.Mutex
	claims map[chunkKey]*claim
}

// claim reports whether no earlier piece has the same content. Workers may
// see pieces in any order: the earliest one of all always gets true, and a
// later one as well if it came first, in which case its work is for nothing.
func (d *dedup) claim(k chunkKey, seq int64) (c *claim, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c = d.claims[k]
	if c == nil {
		c = &claim{seq: seq}
		d.claims[k] = c
		return c, true
	}
	if seq < c.seq {
		c.seq = seq
		return c, true
	}
	return c, false
}
