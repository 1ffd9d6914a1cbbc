// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// keyedMutex is a mutex per name. The zero value is ready.
type keyedMutex struct {
	mu sync.Mutex
	m  map[string]*keyedEntry
}

type keyedEntry struct {
	mu      sync.Mutex
	waiters int // guarded by keyedMutex.mu; includes the holder
}

// lock returns the function that unlocks.
func (k *keyedMutex) lock(name string) func() {
	k.mu.Lock()
	if k.m == nil {
		k.m = make(map[string]*keyedEntry)
	}
	e := k.m[name]
	if e == nil {
		e = new(keyedEntry)
		k.m[name] = e
	}
	e.waiters++
	k.mu.Unlock()
	e.mu.Lock()
	return func() {
		e.mu.Unlock()
		k.mu.Lock()
		if e.waiters--; e.waiters == 0 {
			delete(k.m, name)
		}
		k.mu.Unlock()
	}
}

// chain lists the ids of the layers below id, nearest first.
func (d *Driver) chain(id string) ([]string, error) {
	data, err := readFileLimit(filepath.Join(d.overlayDir(id), "lower"), recordLimit)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for link := range strings.SplitSeq(string(data), ":") {
		to, err := os.Readlink(filepath.Join(d.overlayHome(), link))
		if err != nil {
			return nil, fmt.Errorf("layer %s: the link of a lower layer: %w", id, err)
		}
		ids = append(ids, filepath.Base(filepath.Dir(to)))
	}
	return ids, nil
}

// lazyBelow returns the lazy layers among id and those below it. It fails when one of them must not be used, so that
// nobody sees a tree that lacks a layer. Where no layer of the store is lazy or bad, it looks at nothing.
func (d *Driver) lazyBelow(id string) ([]*lazyLayer, error) {
	d.mu.Lock()
	special := d.special > 0
	d.mu.Unlock()
	if !special {
		return nil, nil
	}
	ids, err := d.chain(id)
	if err != nil {
		return nil, err
	}
	var lazy []*lazyLayer
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range append([]string{id}, ids...) {
		switch l := d.layers[id]; {
		case l == nil:
		case l.bad != nil:
			return nil, l.bad
		case l.lazy != nil:
			lazy = append(lazy, l.lazy)
		}
	}
	return lazy, nil
}

// hold keeps the lazy layers of the given layers mounted until release is called.
func (d *Driver) hold(user string, ids ...string) (release func(), err error) {
	var held []*lazyLayer
	release = func() {
		for _, l := range held {
			l.release(user)
		}
	}
	for _, id := range ids {
		if id == "" {
			continue
		}
		lazy, err := d.lazyBelow(id)
		if err != nil {
			release()
			return nil, err
		}
		for _, l := range lazy {
			if err := l.acquire(user); err != nil {
				release()
				return nil, err
			}
			held = append(held, l)
		}
	}
	return release, nil
}

// dropStale unmounts a layer's overlay if a lazy layer below it is not the one that is mounted now.
func (d *Driver) dropStale(id string) (was bool, err error) {
	d.mu.Lock()
	was = d.stale[id]
	d.mu.Unlock()
	if !was {
		return false, nil
	}
	merged := d.mergedDir(id)
	for {
		depth, err := mountDepth(merged)
		if err != nil {
			return true, err
		}
		if depth == 0 {
			break
		}
		if err := unix.Unmount(merged, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return true, &os.PathError{Op: "unmount", Path: merged, Err: err}
		}
	}
	d.mu.Lock()
	delete(d.stale, id)
	d.mu.Unlock()
	return true, nil
}

// settle brings the lazy layers' users in line with what is mounted after a Get or Put: a layer uses them once while its
// overlay stands, however often it was got; and one without an overlay as often as it was got.
func (d *Driver) settle(id string, change int) {
	lazy, err := d.lazyBelow(id)
	if err != nil || len(lazy) == 0 {
		return
	}
	want := 0
	if _, err := os.Lstat(filepath.Join(d.overlayDir(id), "lower")); err == nil {
		if isOverlayMount(d.mergedDir(id)) {
			want = 1
		}
	} else {
		d.mu.Lock()
		want = max(d.gets[id]+change, 0)
		if d.gets[id] = want; want == 0 {
			delete(d.gets, id)
		}
		d.mu.Unlock()
	}
	for _, l := range lazy {
		l.setUser(id, want)
	}
}

// forgetUser ends all use that a layer made of lazy ones.
func (d *Driver) forgetUser(id string) {
	d.mu.Lock()
	delete(d.gets, id)
	d.mu.Unlock()
	for _, l := range d.lazyLayers() {
		l.setUser(id, 0)
	}
}
