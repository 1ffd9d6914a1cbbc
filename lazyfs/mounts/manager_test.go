// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lighter/format"
	"lighter/lazyfs"
	"lighter/lazyfs/keeper"
	"lighter/lazyfs/mounts"
)

// local returns a Manager of this process, for tests that do not touch what
// they mount.
func local(t *testing.T, opener func(mounts.Spec) lazyfs.Opener) *mounts.Manager {
	t.Helper()
	store, err := lazyfs.NewStore(t.TempDir(), lazyfs.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k := keeper.NewLocal()
	m, err := mounts.New(mounts.Options{Store: store, Opener: opener, Keeper: k})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Close(context.Background()), k.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// opener is one function.
type opener func(ctx context.Context, id string) (lazyfs.Source, error)

func (o opener) Open(ctx context.Context, id string) (lazyfs.Source, error) { return o(ctx, id) }

func TestMissingBlobs(t *testing.T) {
	m := local(t, func(mounts.Spec) lazyfs.Opener {
		return opener(func(context.Context, string) (lazyfs.Source, error) { return nil, fs.ErrNotExist })
	})
	spec := goldenSpec(t, "oci:v6-zstd")
	spec.Repositories, spec.BlobDirs = []string{"registry.example/app"}, nil
	dir := mountDir(t)
	err := m.Mount(t.Context(), "m", spec, dir)
	var missing *mounts.MissingBlobsError
	if !errors.As(err, &missing) || len(missing.Blobs) == 0 {
		t.Fatalf("mount without data: %v", err)
	}
	for _, want := range append(missing.Blobs[:1], "registry.example/app", "skopeo copy --all", "crane copy", "lighter copy") {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
	if len(m.List()) != 0 {
		t.Errorf("list: %+v", m.List())
	}
	if err := unix.Unmount(dir, 0); err != unix.EINVAL {
		t.Errorf("unmount: %v, want EINVAL: nothing mounted", err)
	}
	spec.Probe = false
	if err := m.Mount(t.Context(), "m", spec, dir); err != nil {
		t.Errorf("mount without probe: %v", err)
	}
}

// TestForbiddenData: data that we may not read is an error of the mount, but
// not for an image of which something is in the cache.
func TestForbiddenData(t *testing.T) {
	dir, spec := t.TempDir(), goldenSpec(t, "dir-v6-zstd")
	k := keeper.NewLocal()
	store, err := lazyfs.NewStore(dir, lazyfs.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	denied := fmt.Errorf("registry.example answered 401 Unauthorized: %w", fs.ErrPermission)
	m, err := mounts.New(mounts.Options{Store: store, Keeper: k, Opener: func(mounts.Spec) lazyfs.Opener {
		return opener(func(context.Context, string) (lazyfs.Source, error) { return nil, denied })
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(m.Close(context.Background()), k.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := m.Mount(t.Context(), "m", spec, mountDir(t)); !errors.Is(err, denied) {
		t.Errorf("mount with nothing cached: %v", err)
	}
	im, err := store.OpenImage(t.Context(), lazyfs.ImageSpec{Bootstrap: spec.Bootstrap, Digest: spec.Digest, MetaDir: spec.MetaDir, Opener: dirOpener(spec)})
	if err != nil {
		t.Fatal(err)
	}
	if err := readSome(t, im); err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Mount(t.Context(), "m", spec, mountDir(t)); err != nil {
		t.Errorf("mount with something cached: %v", err)
	}
}

// readSome reads the first bytes of the first regular file.
func readSome(t *testing.T, im *lazyfs.Image) error {
	t.Helper()
	found := errors.New("found")
	err := fs.WalkDir(im.Bootstrap().FS(nil), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		if _, err := im.ReadAt(t.Context(), info.Sys().(format.Inode), make([]byte, 1), 0); err != nil {
			return err
		}
		return found
	})
	if !errors.Is(err, found) {
		return errors.Join(errors.New("no regular file was read"), err)
	}
	return nil
}

// TestProbeDoesNotBlock: a store that does not answer, or answers with an error,
// delays a mount by a few seconds and no more.
func TestProbeDoesNotBlock(t *testing.T) {
	for name, open := range map[string]opener{
		"silent": func(ctx context.Context, _ string) (lazyfs.Source, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"down": func(context.Context, string) (lazyfs.Source, error) { return nil, errors.New("connection refused") },
	} {
		t.Run(name, func(t *testing.T) {
			m := local(t, func(mounts.Spec) lazyfs.Opener { return open })
			start := time.Now()
			if err := m.Mount(t.Context(), "m", goldenSpec(t, "dir-v6-zstd"), mountDir(t)); err != nil {
				t.Error(err)
			}
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestNoProbeWhenComplete: what is in the cache needs no store at all.
func TestNoProbeWhenComplete(t *testing.T) {
	store := t.TempDir()
	spec := goldenSpec(t, "dir-v6-zstd")
	s := startServer(t, store)
	dir := s.mount(t, "m", spec)
	wantListing(t, dir, "dir.jsonl")
	if a := s.do(t, request{Op: "list"}); len(a.List) != 1 || !a.List[0].Complete {
		t.Errorf("after reading everything: %+v", a.List)
	}
	s.stop()
	spec.BlobDirs = nil
	dir = startServer(t, store).mount(t, "m", spec)
	wantListing(t, dir, "dir.jsonl")
}

func TestMountIsIdempotent(t *testing.T) {
	m := local(t, dirOpener)
	spec := goldenSpec(t, "dir-v6-zstd")
	dir, other := mountDir(t), mountDir(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := m.Mount(t.Context(), "m", spec, dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l := m.List(); len(l) != 1 || l[0].ID != "m" || l[0].Target != dir || l[0].Error != "" {
		t.Errorf("list: %+v", l)
	}
	if err := m.Mount(t.Context(), "m", spec, other); !errors.Is(err, fs.ErrExist) {
		t.Errorf("same id, other target: %v", err)
	}
	if err := m.Mount(t.Context(), "n", spec, other); err != nil {
		t.Errorf("same image, other id: %v", err)
	}
	for range 2 {
		if err := m.Unmount(t.Context(), "m"); err != nil {
			t.Error(err)
		}
	}
	if err := unix.Unmount(dir, 0); err != unix.EINVAL {
		t.Errorf("unmount: %v, want EINVAL: nothing mounted", err)
	}
	if l := m.List(); len(l) != 1 || l[0].ID != "n" {
		t.Errorf("list: %+v", l)
	}
}

func TestMountErrors(t *testing.T) {
	m := local(t, dirOpener)
	good := goldenSpec(t, "dir-v6-zstd")
	noFile, notBootstrap, wrongDigest := good, good, good
	noFile.Bootstrap += "x"
	notBootstrap.Bootstrap = golden(t, "README.md")
	wrongDigest.Digest = "sha256:" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		spec   mounts.Spec
		target string
	}{
		"no bootstrap":    {noFile, mountDir(t)},
		"not a bootstrap": {notBootstrap, mountDir(t)},
		"wrong digest":    {wrongDigest, mountDir(t)},
		"no target":       {good, filepath.Join(mountDir(t), "absent")},
		"relative target": {good, "relative"},
		"target is file":  {good, golden(t, "README.md")},
	} {
		t.Run(name, func(t *testing.T) {
			if err := m.Mount(t.Context(), "m", c.spec, c.target); err == nil {
				t.Error("mounted")
			} else if !strings.Contains(err.Error(), "mount m: ") {
				t.Errorf("%q does not name the mount", err)
			}
			if l := m.List(); len(l) != 0 {
				t.Errorf("list: %+v", l)
			}
		})
	}
	if n := openFiles(t, "/dev/fuse"); n != 0 {
		t.Errorf("%d descriptors of /dev/fuse are open", n)
	}
}

// openFiles counts this process's descriptors of a file.
func openFiles(t *testing.T, path string) int {
	t.Helper()
	n := 0
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if l, err := os.Readlink(fmt.Sprint("/proc/self/fd/", fd.Name())); err == nil && l == path {
			n++
		}
	}
	return n
}
