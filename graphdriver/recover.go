// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// recover reads what earlier processes left: layers, half-removed layers, blobs, and mounts that still stand.
func (d *Driver) recover() error {
	if err := d.recoverLayers(); err != nil {
		return err
	}
	if err := d.recoverBlobs(); err != nil {
		return err
	}
	return d.recoverMounts()
}

func (d *Driver) recoverLayers() error {
	entries, err := os.ReadDir(filepath.Join(d.root, "layers"))
	if err != nil {
		return err
	}
	_, err = os.Stat(d.overlayHome())
	hasStore := err == nil
	for _, e := range entries {
		id := e.Name()
		if checkID(id) != nil {
			continue
		}
		if _, err := os.Lstat(d.overlayDir(id)); hasStore && os.IsNotExist(err) {
			// Remove got as far as overlay2's part.
			if err := os.RemoveAll(d.layerDir(id)); err != nil {
				return err
			}
			continue
		}
		l := d.loadLayer(id)
		if l.bad != nil {
			d.log.Warn("layer can't be used", "error", l.bad)
		}
		d.setLayer(id, l)
	}
	return nil
}

// recoverBlobs makes the directory of blobs fit the layers.
func (d *Driver) recoverBlobs() error {
	wanted := make(map[string]string) // file name → layer
	for id, l := range d.layers {
		if l.record != nil && l.Kind == kindBlob {
			wanted[strings.TrimPrefix(l.DiffID, "sha256:")] = id
		}
	}
	entries, err := os.ReadDir(d.blobDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := wanted[e.Name()]; ok {
			delete(wanted, e.Name())
			continue
		}
		if err := os.Remove(filepath.Join(d.blobDir(), e.Name())); err != nil {
			return err
		}
	}
	for name, id := range wanted {
		err := os.Link(filepath.Join(d.layerDir(id), rawFile), filepath.Join(d.blobDir(), name))
		if err != nil {
			d.log.Warn("blob can't be offered", "layer", id, "error", err)
		}
	}
	return nil
}

// recoverMounts enters the layers whose overlays still stand as users of the lazy layers below them. After a crash of the
// worker the lazy mounts live on. After one of the whole plugin they are dead, and with them, though they don't show it,
// the overlays above: those are replaced at their next Get. `docker restart` does not unmount in between.
func (d *Driver) recoverMounts() error {
	mounts, err := d.mountsBelow()
	if err != nil {
		return err
	}
	dead := make(map[*lazyLayer]bool)
	for _, m := range mounts {
		rel, err := filepath.Rel(d.overlayHome(), m.Mountpoint)
		if err != nil {
			continue
		}
		id, dir := filepath.Split(rel)
		id = filepath.Clean(id)
		if dir != "merged" || checkID(id) != nil {
			continue
		}
		lazy, err := d.lazyBelow(id)
		if err != nil {
			d.log.Warn("mounted layer", "layer", id, "error", err)
		}
		for _, l := range lazy {
			if _, known := dead[l]; !known {
				depth, err := mountDepth(d.diffDir(l.id))
				dead[l] = err != nil || depth == 0 || isDead(d.diffDir(l.id))
			}
			if dead[l] {
				d.stale[id] = true
			} else {
				l.setUser(id, 1)
			}
		}
	}
	return nil
}

// mountsBelow lists the mounts in overlay2's home.
func (d *Driver) mountsBelow() ([]*mountinfo.Info, error) {
	return mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, d.overlayHome()+"/"), false
	})
}

// removeUnfinished removes the layers whose ApplyDiff a crash cut off. Docker does not know them, since it was never told
// that they are complete; and when it starts, it has none under way.
func (d *Driver) removeUnfinished(s *store) {
	d.mu.Lock()
	var ids []string
	for id, l := range d.layers {
		if l.begun && !l.busy {
			ids = append(ids, id)
		}
	}
	d.mu.Unlock()
	for _, id := range ids {
		unlock := d.ids.lock(id)
		err := d.remove(s, id)
		unlock()
		if err != nil {
			d.log.Warn("remove unfinished layer", "layer", id, "error", err)
			continue
		}
		d.log.Info("removed unfinished layer", "layer", id)
	}
}

// Cleanup unmounts everything: the overlays, then the lazy layers below them. The driver can be used again after it.
func (d *Driver) Cleanup() error {
	d.storeMu.Lock()
	defer d.storeMu.Unlock()
	mounts, err := d.mountsBelow()
	if err != nil {
		return err
	}
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		m := mounts[i]
		if m.FSType != "overlay" {
			continue
		}
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, &os.PathError{Op: "unmount", Path: m.Mountpoint, Err: err})
		}
	}
	for _, l := range d.lazyLayers() {
		if err := l.drop(false); err != nil {
			errs = append(errs, fmt.Errorf("layer %s: %w", l.id, err))
		}
	}
	d.mu.Lock()
	clear(d.gets)
	d.mu.Unlock()
	if d.store != nil {
		errs = append(errs, d.store.overlay.Cleanup())
		d.store = nil // its counters of mounts are of no use any more
	}
	return errors.Join(errs...)
}
