// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	moby "github.com/moby/moby/v2/daemon/graphdriver"
	"github.com/moby/moby/v2/daemon/graphdriver/overlay2"
	"github.com/moby/sys/user"
)

// store is Docker's own overlay2 over our root, as the last Init wanted it.
type store struct {
	d       *Driver
	overlay moby.Driver
	idMap   user.IdentityMapping
	native  bool // overlay2 makes diffs from the upper directory alone
}

// Init takes Docker's settings. Told again the same, it changes nothing: what is mounted stays mounted.
func (d *Driver) Init(c Config) error {
	d.storeMu.Lock()
	defer d.storeMu.Unlock()
	if d.config == nil || !d.config.sameStore(&c) {
		d.store = nil
	}
	s, err := d.openLocked(&c)
	if err != nil {
		return err
	}
	if err := d.saveState(&c); err != nil {
		return err
	}
	d.config, d.store = &c, s
	d.removeUnfinished(s)
	return nil
}

// open returns the store, opening it as the last Init wanted it.
func (d *Driver) open() (*store, error) {
	d.storeMu.Lock()
	defer d.storeMu.Unlock()
	if d.config == nil {
		return nil, errors.New("the driver was not initialised: Docker sends Init when it starts; restart dockerd")
	}
	s, err := d.openLocked(d.config)
	d.store = s
	return s, err
}

func (d *Driver) openLocked(c *Config) (*store, error) {
	if d.store != nil {
		return d.store, nil
	}
	s := &store{d: d, idMap: user.IdentityMapping{UIDMaps: toIDMaps(c.UIDMaps), GIDMaps: toIDMaps(c.GIDMaps)}}
	// Other users of the host must not reach set-id files: only root, or the root of Docker's user namespace, may pass.
	_, gid := s.idMap.RootPair()
	if err := errors.Join(os.Chmod(d.root, 0o710), os.Chown(d.root, 0, gid)); err != nil {
		return nil, err
	}
	overlay, err := overlay2.Init(d.overlayHome(), c.Opts, s.idMap)
	if err != nil {
		return nil, fmt.Errorf("overlay2 in %s: %w", d.overlayHome(), err)
	}
	s.overlay = overlay
	s.native = slices.Contains(overlay.Status(), [2]string{"Native Overlay Diff", "true"})
	return s, nil
}

func toIDMaps(in []IDMap) []user.IDMap {
	var out []user.IDMap
	for _, m := range in {
		out = append(out, user.IDMap{ID: int64(m.ContainerID), ParentID: int64(m.HostID), Count: int64(m.Size)})
	}
	return out
}

// mapped tells whether Docker runs containers in a user namespace of their own.
func (s *store) mapped() bool { return !s.idMap.Empty() }

func (d *Driver) overlayHome() string         { return filepath.Join(d.root, "overlay2") }
func (d *Driver) overlayDir(id string) string { return filepath.Join(d.overlayHome(), id) }
func (d *Driver) diffDir(id string) string    { return filepath.Join(d.overlayDir(id), "diff") }
func (d *Driver) mergedDir(id string) string  { return filepath.Join(d.overlayDir(id), "merged") }
