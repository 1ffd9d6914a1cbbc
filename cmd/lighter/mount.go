// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"lighter/lazyfs"
	"lighter/lazyfs/backend"
	"lighter/lazyfs/cache"
	"lighter/lazyfs/keeper"
	"lighter/lazyfs/mounts"
)

type mountFlags struct {
	places
	bootstrap, blobs, cache string
	background, offline     bool
	readTimeout             time.Duration
}

func newMount() *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:   "mount IMAGE DIR | --bootstrap FILE [--blobs DIR] DIR",
		Short: "Mount an accelerated image lazily, until Ctrl-C or umount",
		Long: `Mount an accelerated image lazily, until Ctrl-C or umount.

The bootstrap is verified by the digest of the layer that brought it, every chunk
by its digest in the bootstrap, before its bytes are shown. What was read stays in
the cache directory, which one process uses at a time; with --offline nothing else is used.`,
		Example: `  lighter mount registry.example/app:1-nydus /mnt
  lighter mount --background --cache /var/cache/app oci:/images/app:1-nydus /mnt && ls /mnt && umount /mnt
  lighter mount --bootstrap app.boot --blobs /var/lib/blobs /mnt`,
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.flags(cmd)
	f.platformFlag(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.bootstrap, "bootstrap", "", "a bare bootstrap, without a digest to be trusted by")
	fl.StringVar(&f.blobs, "blobs", "", "directory of its blobs, named by id (default: the bootstrap's)")
	fl.StringVar(&f.cache, "cache", "", "directory of fetched chunks (default: /var/cache/lighter, or the user's cache directory)")
	fl.BoolVar(&f.background, "background", false, "return as soon as it is mounted")
	fl.BoolVar(&f.offline, "offline", false, "use only what the cache holds: no network")
	fl.DurationVar(&f.readTimeout, "read-timeout", time.Minute, "how long a read waits for its data")
	return cmd
}

func (f *mountFlags) run(cmd *cobra.Command, args []string) error {
	dir := args[len(args)-1]
	switch {
	case f.bootstrap == "" && len(args) < 2:
		return usagef("image or directory missing (usage: %s)", cmd.UseLine())
	case f.bootstrap != "" && len(args) > 1:
		return usagef("an image and --bootstrap exclude each other")
	case f.bootstrap == "" && f.blobs != "":
		return usagef("--blobs goes with --bootstrap")
	}
	if st, err := os.Stat(dir); err != nil {
		return err
	} else if !st.IsDir() {
		return fmt.Errorf("%s: not a directory", dir)
	}
	if f.background && os.Getenv(readyEnv) == "" {
		return inBackground(cmd, cacheDir(f.cache))
	}
	keepReady()
	target, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return f.serve(cmd, args[0], target)
}

// cacheDir is the cache's place: root's is shared, everybody else has their own.
func cacheDir(named string) string {
	if named != "" {
		return named
	}
	if os.Geteuid() != 0 {
		if dir, err := os.UserCacheDir(); err == nil {
			return filepath.Join(dir, "lighter")
		}
	}
	return "/var/cache/lighter"
}

// mountID names the only mount of this process.
const mountID = "mount"

// closeTimeout bounds what happens after Ctrl-C.
const closeTimeout = 30 * time.Second

func (f *mountFlags) serve(cmd *cobra.Command, image, target string) (err error) {
	ctx := cmd.Context()
	dir := cacheDir(f.cache)
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := openStore(ctx, dir, lazyfs.StoreOptions{ReadTimeout: f.readTimeout, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	var m *mountable
	if f.bootstrap != "" {
		m, err = f.bare()
	} else {
		m, err = f.prepare(ctx, image, dir)
	}
	if err != nil {
		return err
	}
	defer m.close()
	local := keeper.NewLocal()
	defer func() { err = errors.Join(err, local.Close()) }()
	manager, err := mounts.New(mounts.Options{
		Store: store, Keeper: local, Logger: log,
		Opener: func(mounts.Spec) lazyfs.Opener { return m.opener },
	})
	if err != nil {
		return err
	}
	if err := manager.Mount(ctx, mountID, m.spec, target); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return errors.Join(err, manager.Close(context.WithoutCancel(ctx)))
	}
	if os.Getenv(readyEnv) == "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "mounted on %s; Ctrl-C or umount ends it\n", target)
	}
	waitMounted(ctx, manager)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return manager.Close(end)
}

// lockTimeout is how long a mount waits for the process of an earlier one,
// which may still be closing its cache after umount.
const lockTimeout = 3 * time.Second

func openStore(ctx context.Context, dir string, o lazyfs.StoreOptions) (*lazyfs.Store, error) {
	for deadline := time.Now().Add(lockTimeout); ; {
		store, err := lazyfs.NewStore(dir, o)
		if !errors.Is(err, cache.ErrLocked) {
			return store, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w (hint: one process uses a cache at a time; --cache DIR names another)", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// waitMounted returns when the context has ended or somebody has unmounted.
func waitMounted(ctx context.Context, m *mounts.Manager) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for len(m.List()) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// mountable is what is mounted, and the way to its data.
type mountable struct {
	spec   mounts.Spec
	opener lazyfs.Opener
	ended  func() // may be nil
}

func (m *mountable) close() {
	if m.ended != nil {
		m.ended()
	}
}

// bare mounts a bootstrap as it is.
func (f *mountFlags) bare() (*mountable, error) {
	name, err := filepath.Abs(f.bootstrap)
	if err != nil {
		return nil, err
	}
	blobs := f.blobs
	if blobs == "" {
		blobs = filepath.Dir(name)
	}
	if blobs, err = filepath.Abs(blobs); err != nil {
		return nil, err
	}
	return &mountable{
		spec:   mounts.Spec{Bootstrap: name, BlobDirs: []string{blobs}, Probe: true},
		opener: backend.NewDir(blobs),
	}, nil
}
