// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"encoding/json"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"lighter/lazyfs/keeper"
)

// recover serves what an earlier process left to the keeper, and returns when
// all of it is being served. Readers wait meanwhile, so images are opened side
// by side.
func (m *Manager) recover(kept []*keeper.Mount) {
	var g errgroup.Group
	g.SetLimit(max(4, 2*runtime.GOMAXPROCS(0)))
	for _, k := range kept {
		g.Go(func() error {
			m.resume(k)
			return nil
		})
	}
	g.Wait() // no errors
}

// resume serves one kept mount. If its image cannot be opened, readers get an
// error: to make them wait for ever would be worse.
func (m *Manager) resume(k *keeper.Mount) {
	mt := &mount{kept: k, ended: make(chan struct{})}
	mt.err = json.Unmarshal(k.Meta, &mt.spec)
	if mt.err == nil {
		mt.im, mt.err = m.open(m.ctx, mt.spec)
	}
	if mt.err != nil {
		mt.im = nil
		mt.err = fmt.Errorf("open again: %w", mt.err)
		m.log.Error("mount is broken", "id", k.ID, "target", k.Target, "error", mt.err)
	}
	if !k.Detached {
		m.attach(mt)
	}
	go m.serve(mt)
}
