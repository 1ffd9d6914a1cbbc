// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"container/list"
	"sync"

	"lighter/format"
)

// chunkKey names the content of a chunk. The algorithm is part of it, so that
// an image cannot pass off bytes by declaring another one.
type chunkKey struct {
	digest   [32]byte
	size     uint32
	digester format.Digester
}

// memory keeps the most recently used verified chunks, up to a number of
// bytes. Its values are shared and must not be changed.
type memory struct {
	limit int64

	mu    sync.Mutex
	size  int64
	order list.List // of *memoryEntry, most recently used first
	m     map[chunkKey]*list.Element
}

type memoryEntry struct {
	key  chunkKey
	data []byte
}

func newMemory(limit int64) *memory {
	return &memory{limit: limit, m: map[chunkKey]*list.Element{}}
}

// get returns the chunk or nil.
func (m *memory) get(k chunkKey) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.m[k]
	if e == nil {
		return nil
	}
	m.order.MoveToFront(e)
	return e.Value.(*memoryEntry).data
}

// has is get without use.
func (m *memory) has(k chunkKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.m[k] != nil
}

// add keeps data, whose capacity must be its length, unless it is larger than
// the limit.
func (m *memory) add(k chunkKey, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m[k] != nil || int64(len(data)) > m.limit {
		return
	}
	m.m[k] = m.order.PushFront(&memoryEntry{k, data})
	m.size += int64(len(data))
	for m.size > m.limit {
		e := m.order.Back()
		old := m.order.Remove(e).(*memoryEntry)
		delete(m.m, old.key)
		m.size -= int64(len(old.data))
	}
}

// bytes is the size of what is kept.
func (m *memory) bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}
