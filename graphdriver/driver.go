// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	moby "github.com/moby/moby/v2/daemon/graphdriver"
)

// Driver is the graph driver. All its methods may be called at the same time.
type Driver struct {
	o    Options
	root string
	log  *slog.Logger

	ids    keyedMutex // one per layer, held by every operation that changes or mounts it
	blobMu sync.Mutex // the directory of blobs

	storeMu sync.Mutex // guards the two below
	config  *Config    // nil before the first Init
	store   *store     // nil until needed

	mu      sync.Mutex        // taken last; guards the four below
	layers  map[string]*layer // every layer with a folder in layers/
	special int               // how many of them are lazy or bad
	stale   map[string]bool   // layers whose overlay was made over a lazy layer's mount that is dead since
	gets    map[string]int    // lazy layers without lower ones: Gets outstanding, which overlay2 doesn't count
}

// New opens the driver. If an earlier process was told Init, the driver works at once as that one did.
func New(o Options) (*Driver, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, fmt.Errorf("graphdriver: %w", err)
	}
	root, err := filepath.EvalSymlinks(o.Root) // as the kernel lists its mounts
	if err != nil {
		return nil, fmt.Errorf("graphdriver: %w", err)
	}
	d := &Driver{o: o, root: root, log: o.Logger, layers: make(map[string]*layer), stale: make(map[string]bool), gets: make(map[string]int)}
	for _, dir := range []string{filepath.Join(d.root, "layers"), d.blobDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("graphdriver: %w", err)
		}
	}
	if err := d.recover(); err != nil {
		return nil, fmt.Errorf("graphdriver: %w", err)
	}
	c, err := d.loadState()
	if err != nil {
		d.log.Warn("the settings of the last Init are lost; waiting for the next", "error", err)
	}
	d.config = c
	return d, nil
}

// Create makes an image layer, CreateReadWrite one for a container.
func (d *Driver) Create(id, parent string, o CreateOptions) error {
	return d.create(id, parent, o, moby.Driver.Create)
}

// CreateReadWrite is Create for a container's layer, which may have a quota.
func (d *Driver) CreateReadWrite(id, parent string, o CreateOptions) error {
	return d.create(id, parent, o, moby.Driver.CreateReadWrite)
}

func (d *Driver) create(id, parent string, o CreateOptions, create func(moby.Driver, string, string, *moby.CreateOpts) error) error {
	if err := errors.Join(checkID(id), checkParent(parent)); err != nil {
		return err
	}
	s, err := d.open()
	if err != nil {
		return err
	}
	defer d.ids.lock(id)()
	if err := d.usable(id); err != nil {
		return err
	}
	if parent != "" {
		if err := d.usable(parent); err != nil {
			return err
		}
	}
	return create(s.overlay, id, parent, &moby.CreateOpts{MountLabel: o.MountLabel, StorageOpt: o.StorageOpt})
}

// usable refuses a layer that is not complete or damaged.
func (d *Driver) usable(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.layers[id]; l != nil {
		return l.bad
	}
	return nil
}

// Remove takes a layer away, whatever state it is in. That it is not there is no error.
func (d *Driver) Remove(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	s, err := d.open()
	if err != nil {
		return err
	}
	defer d.ids.lock(id)()
	return d.remove(s, id)
}

// remove does Remove's work. The record goes last: as long as anything of the layer is there, it says what it is.
func (d *Driver) remove(s *store, id string) error {
	d.mu.Lock()
	l := d.layers[id]
	d.mu.Unlock()
	if l != nil && l.lazy != nil {
		if err := l.lazy.drop(true); err != nil {
			return fmt.Errorf("layer %s: %w", id, err)
		}
	}
	if err := s.overlay.Remove(id); err != nil {
		return err
	}
	d.forgetUser(id)
	d.mu.Lock()
	delete(d.stale, id)
	d.mu.Unlock()
	fault("remove-overlay")
	if l == nil {
		return nil
	}
	d.mu.Lock()
	d.setLayer(id, nil)
	d.mu.Unlock()
	if l.record != nil && l.Kind == kindBlob {
		if err := d.unlinkBlob(l.record); err != nil {
			return err
		}
	}
	fault("remove-blob")
	return os.RemoveAll(d.layerDir(id))
}

// Get mounts a layer and returns the directory. Each Get wants a Put.
func (d *Driver) Get(id, mountLabel string) (string, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	s, err := d.open()
	if err != nil {
		return "", err
	}
	defer d.ids.lock(id)()
	stale, err := d.dropStale(id)
	if err != nil {
		return "", err
	}
	release, err := d.hold(id, id)
	if err != nil {
		return "", err
	}
	dir, err := s.overlay.Get(id, mountLabel)
	if err == nil && stale {
		// Docker still counts the Get that made the stale mount, as overlay2 would have counted the mount.
		dir, err = s.overlay.Get(id, mountLabel)
	}
	if err != nil {
		release()
		return "", err
	}
	d.settle(id, +1)
	return dir, nil
}

// Put undoes one Get.
func (d *Driver) Put(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	s, err := d.open()
	if err != nil {
		return err
	}
	defer d.ids.lock(id)()
	if _, err := d.dropStale(id); err != nil {
		return err
	}
	err = s.overlay.Put(id)
	d.settle(id, -1)
	return err
}

// Exists tells whether there is such a layer.
func (d *Driver) Exists(id string) bool {
	if checkID(id) != nil {
		return false
	}
	s, err := d.open()
	return err == nil && s.overlay.Exists(id)
}

// GetMetadata tells where a layer's directories are.
func (d *Driver) GetMetadata(id string) (map[string]string, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	s, err := d.open()
	if err != nil {
		return nil, err
	}
	return s.overlay.GetMetadata(id)
}
