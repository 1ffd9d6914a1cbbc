// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
)

// maxMeta is the most that can be stored with a mount, in bytes: it must fit
// into one packet.
const maxMeta = 64 << 10

// ErrExists is returned for a second mount with the same ID.
var ErrExists = errors.New("mount exists")

// table is what is kept. Its methods may be called concurrently; those that
// concern one ID should not be.
type table struct {
	prober *prober

	mu     sync.Mutex
	serial uint64
	mounts map[uint64]*Mount // by Serial; nil while it is being mounted
	ids    map[string]uint64 // attached ones
}

func newTable(p *prober) *table {
	return &table{prober: p, mounts: map[uint64]*Mount{}, ids: map[string]uint64{}}
}

// mount makes a mount and keeps it. The result shares nothing with the table.
func (t *table) mount(id, target string, meta []byte) (*Mount, error) {
	if !filepath.IsAbs(target) || id == "" || len(meta) > maxMeta {
		return nil, fmt.Errorf("mount %q on %q: %w", id, target, fs.ErrInvalid)
	}
	t.mu.Lock()
	if _, ok := t.ids[id]; ok {
		t.mu.Unlock()
		return nil, fmt.Errorf("mount %s: %w", id, ErrExists)
	}
	t.serial++
	m := &Mount{Serial: t.serial, ID: id, Target: target, Meta: slices.Clone(meta)}
	t.ids[id] = m.Serial
	t.mu.Unlock()

	err := m.open()
	var shared *Mount
	if err == nil {
		if shared, err = m.share(); err != nil {
			err = errors.Join(err, m.unmount(), m.Close())
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		delete(t.ids, id)
		return nil, err
	}
	t.mounts[m.Serial] = m
	return shared, nil
}

func (t *table) get(serial uint64) (Mount, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.mounts[serial]
	if m == nil {
		return Mount{}, fmt.Errorf("mount %d: %w", serial, fs.ErrNotExist)
	}
	return *m, nil
}

// ready returns when the mount's root can be read.
func (t *table) ready(ctx context.Context, serial uint64) error {
	m, err := t.get(serial)
	if err != nil {
		return err
	}
	return t.prober.probe(ctx, m.Target)
}

// unmount detaches a mount. It is kept until it is released, for it may still
// be in use. One that has been released already is no error.
func (t *table) unmount(serial uint64) error {
	m, err := t.get(serial)
	if err != nil || m.Detached {
		return nil
	}
	if err := m.unmount(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.mounts[serial]; k != nil {
		k.Detached = true
	}
	if t.ids[m.ID] == serial {
		delete(t.ids, m.ID)
	}
	return nil
}

// release forgets a mount whose connection has ended.
func (t *table) release(serial uint64) error {
	t.mu.Lock()
	m := t.mounts[serial]
	if m == nil {
		t.mu.Unlock()
		return nil
	}
	delete(t.mounts, serial)
	if t.ids[m.ID] == serial {
		delete(t.ids, m.ID)
	}
	t.mu.Unlock()
	if !m.Detached { // aborted, or unmounted by somebody else
		return errors.Join(m.unmount(), m.Close())
	}
	return m.Close()
}

// kept returns all mounts, oldest first, with descriptors of their own.
func (t *table) kept() ([]*Mount, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*Mount
	for _, m := range t.mounts {
		shared, err := m.share()
		if err != nil {
			for _, m := range all {
				m.Close()
			}
			return nil, err
		}
		all = append(all, shared)
	}
	slices.SortFunc(all, func(a, b *Mount) int { return int(a.Serial) - int(b.Serial) })
	return all, nil
}

// close ends everything that is mounted, also for those who use it: a process
// that waits for an answer must not wait for ever.
func (t *table) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, m := range t.mounts {
		if !m.Detached {
			errs = append(errs, m.abort())
		}
		errs = append(errs, m.Close())
	}
	clear(t.mounts)
	clear(t.ids)
	return errors.Join(append(errs, t.prober.close())...)
}
