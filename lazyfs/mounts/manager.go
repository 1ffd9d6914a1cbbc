// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lighter/lazyfs"
	"lighter/lazyfs/fusefs"
	"lighter/lazyfs/keeper"
)

const (
	// probeTimeout is how long the question for missing blobs may take.
	probeTimeout = 3 * time.Second
	// readyTimeout is how long the first access may take. Reading a root
	// needs no network.
	readyTimeout = 30 * time.Second
	// endTimeout is how long Unmount waits for the connection to end, which
	// it does at once unless somebody still uses the mount.
	endTimeout = time.Second
	// undoTimeout bounds calls that clean up after a context has ended.
	undoTimeout = 10 * time.Second
	// mostCrashes is how many processes in a row may crash before requests
	// that they left behind are refused.
	mostCrashes = 3
)

// Keeper is what package keeper offers to the process that serves: a
// *keeper.Client or a *keeper.Local.
type Keeper interface {
	Kept() []*keeper.Mount
	Mount(ctx context.Context, id, target string, meta []byte) (*keeper.Mount, error)
	Ready(ctx context.Context, serial uint64) error
	Unmount(ctx context.Context, serial uint64) error
	Release(ctx context.Context, serial uint64) error
}

// Options of a Manager. Store, Opener and Keeper are required.
type Options struct {
	Store *lazyfs.Store
	// Opener returns where the data of a Spec comes from. It must not block.
	Opener func(Spec) lazyfs.Opener
	Keeper Keeper
	// Logger receives what has no caller. Nil: slog's default.
	Logger *slog.Logger
}

// Manager mounts images. Its methods may be called concurrently; calls for one
// id wait for each other.
type Manager struct {
	o   Options
	log *slog.Logger

	ctx  context.Context // ends when serving shall stop
	stop context.CancelFunc
	ids  locks

	refuse bool // what earlier processes left behind

	mu       sync.Mutex
	attached map[string]*mount // by id
}

// New returns a Manager that serves whatever the keeper kept. An image that
// cannot be opened again gives EIO to its readers; New does not fail for it.
func New(o Options) (*Manager, error) {
	if o.Store == nil || o.Opener == nil || o.Keeper == nil {
		return nil, fmt.Errorf("mounts: options: %w", fs.ErrInvalid)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	m := &Manager{o: o, log: o.Logger, attached: map[string]*mount{}}
	if k, ok := o.Keeper.(interface{ Crashes() int }); ok {
		m.refuse = k.Crashes() >= mostCrashes
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	m.recover(o.Keeper.Kept())
	return m, nil
}

// Mount mounts spec's image on the directory target and returns when it can be
// read. Mounting what is mounted there already does nothing; the same id with
// another target or bootstrap is an error (fs.ErrExist). With spec.Probe, a
// blob that surely does not exist gives a *MissingBlobsError.
func (m *Manager) Mount(ctx context.Context, id string, spec Spec, target string) error {
	unlock, err := m.ids.lock(ctx, id)
	if err != nil {
		return fmt.Errorf("mount %s: %w", id, err)
	}
	defer unlock()
	if err := m.mount(ctx, id, spec, target); err != nil {
		return fmt.Errorf("mount %s: %w", id, err)
	}
	return nil
}

func (m *Manager) mount(ctx context.Context, id string, spec Spec, target string) error {
	if old := m.get(id); old != nil {
		again, err := old.matches(spec, target)
		if err != nil {
			return err
		}
		if again {
			return m.ready(ctx, old)
		}
		if err := m.unmount(ctx, old); err != nil {
			return err
		}
	}
	meta, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	im, err := m.open(ctx, spec)
	if err != nil {
		return err
	}
	if spec.Probe {
		if err := m.probe(ctx, id, spec, im); err != nil {
			return errors.Join(err, im.Close())
		}
	}
	kept, err := m.o.Keeper.Mount(ctx, id, target, meta)
	if err != nil {
		return errors.Join(err, im.Close())
	}
	mt := &mount{kept: kept, spec: spec, im: im, ended: make(chan struct{})}
	m.attach(mt)
	go m.serve(mt)
	if err := m.ready(ctx, mt); err != nil {
		return errors.Join(err, m.undo(mt))
	}
	return nil
}

func (m *Manager) open(ctx context.Context, spec Spec) (*lazyfs.Image, error) {
	return m.o.Store.OpenImage(ctx, lazyfs.ImageSpec{
		Bootstrap: spec.Bootstrap,
		Digest:    spec.Digest,
		MetaDir:   spec.MetaDir,
		Opener:    m.o.Opener(spec),
	})
}

// probe asks for missing blobs. Only a sure "no" is an error. That we may not
// read them counts as one as long as there is nothing to run on without them.
func (m *Manager) probe(ctx context.Context, id string, spec Spec, im *lazyfs.Image) error {
	if im.Complete() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	missing, err := im.Missing(ctx)
	if len(missing) > 0 {
		return &MissingBlobsError{Blobs: missing, Places: slices.Concat(spec.Repositories, spec.BlobDirs)}
	}
	if errors.Is(err, fs.ErrPermission) && im.Cold() {
		return fmt.Errorf("the image's data cannot be fetched: %w", err)
	}
	if err != nil {
		m.log.Warn("cannot tell whether the image's data exists", "id", id, "error", err)
	}
	return nil
}

func (m *Manager) ready(ctx context.Context, mt *mount) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return m.o.Keeper.Ready(ctx, mt.kept.Serial)
}

// undo unmounts what could not be used, also when the caller has gone.
func (m *Manager) undo(mt *mount) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	return m.unmount(ctx, mt)
}

// Unmount takes the mount of id away; an id that is not mounted is no error.
// Whoever still uses the mount, like an overlayfs above it, can go on.
func (m *Manager) Unmount(ctx context.Context, id string) error {
	unlock, err := m.ids.lock(ctx, id)
	if err != nil {
		return fmt.Errorf("unmount %s: %w", id, err)
	}
	defer unlock()
	mt := m.get(id)
	if mt == nil {
		return nil
	}
	if err := m.unmount(ctx, mt); err != nil {
		return fmt.Errorf("unmount %s: %w", id, err)
	}
	return nil
}

func (m *Manager) unmount(ctx context.Context, mt *mount) error {
	select {
	case <-mt.ended: // the connection was aborted, and is released
	default:
		if err := m.o.Keeper.Unmount(ctx, mt.kept.Serial); err != nil {
			return err
		}
	}
	m.detach(mt)
	t := time.NewTimer(endTimeout)
	defer t.Stop()
	select {
	case <-mt.ended:
	case <-t.C:
		m.log.Info("unmounted, but still in use", "id", mt.kept.ID, "target", mt.kept.Target)
	case <-ctx.Done():
	}
	return nil
}

// List returns the mounts, by id.
func (m *Manager) List() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Status, 0, len(m.attached))
	for _, mt := range m.attached {
		list = append(list, mt.status())
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// Close unmounts everything, and returns the errors of those that would not.
func (m *Manager) Close(ctx context.Context) error {
	list := m.List()
	errs := make([]error, len(list))
	var g errgroup.Group
	g.SetLimit(32) // those that are still used take time
	for i, s := range list {
		g.Go(func() error {
			errs[i] = m.Unmount(ctx, s.ID)
			return nil
		})
	}
	g.Wait() // the errors of all are wanted, not the first
	return errors.Join(errs...)
}

// Detach stops serving and leaves all mounts to the keeper and the next
// process. Requests wait until then. The process should end.
func (m *Manager) Detach() { m.stop() }

func (m *Manager) get(id string) *mount {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.attached[id]
}

func (m *Manager) attach(mt *mount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attached[mt.kept.ID] = mt
}

func (m *Manager) detach(mt *mount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.attached[mt.kept.ID] == mt {
		delete(m.attached, mt.kept.ID)
	}
}

// serve answers the mount's requests until its connection ends, and lets go
// of all that belongs to it.
func (m *Manager) serve(mt *mount) {
	err := fusefs.Serve(m.ctx, mt.fs(m.log), fusefs.Conn{
		Dev: mt.kept.Dev, Init: mt.kept.Init, Slots: mt.kept.Slots, Refuse: m.refuse, Logger: m.log,
	})
	if m.ctx.Err() != nil {
		return // the next process goes on with what the keeper has
	}
	if err != nil {
		m.log.Error("mount ended", "id", mt.kept.ID, "target", mt.kept.Target, "error", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	err = errors.Join(m.o.Keeper.Release(ctx, mt.kept.Serial), mt.kept.Close(), mt.close())
	if err != nil {
		m.log.Error("mount not released", "id", mt.kept.ID, "error", err)
	}
	close(mt.ended)
	m.detach(mt)
}
