// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/snapshot"
)

// Labels of a snapshot that stands for an accelerated image. Their prefix is
// the one whose labels BuildKit keeps when it commits a snapshot.
const (
	labelTree = "containerd.io/snapshot/lighter.tree" // the image, by the hex digest of its bootstrap layer
	labelDir  = "containerd.io/snapshot/lighter.dir"  // the snapshotter's own, empty directory
)

type treeKey struct{}

// withTree makes the next snapshot without parent one that shows an image.
func withTree(ctx context.Context, hex string) context.Context {
	return context.WithValue(ctx, treeKey{}, hex)
}

// mounter knows the images on disk.
type mounter interface {
	// mount mounts an image, unless it is mounted, and tells where.
	mount(hex string) (tree string, err error)
	// likeRoot gives a directory the owner and mode of an image's root.
	likeRoot(dir, hex string) error
}

// snapshotter shows trees where the wrapped one has empty directories.
type snapshotter struct {
	snapshot.Snapshotter
	trees mounter
}

// Snapshotter wraps the one of a worker.
func (b *Bases) Snapshotter(s snapshot.Snapshotter) snapshot.Snapshotter {
	return &snapshotter{s, b}
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	if hex, _ := ctx.Value(treeKey{}).(string); hex != "" && parent == "" {
		opts = append(opts, snapshots.WithLabels(map[string]string{labelTree: hex}))
	}
	if err := s.Snapshotter.Prepare(ctx, key, parent, opts...); err != nil || parent == "" || s.Name() != "native" {
		return err
	}
	return s.copyTree(ctx, key, parent)
}

// copyTree fills a copy of an image's empty directory with the image, for the
// one snapshotter that copies instead of stacking.
func (s *snapshotter) copyTree(ctx context.Context, key, parent string) error {
	info, err := s.Stat(ctx, parent)
	if err != nil {
		return err
	}
	hex := info.Labels[labelTree]
	if hex == "" {
		return nil
	}
	tree, err := s.trees.mount(hex)
	if err != nil {
		return err
	}
	dir, err := s.dirOf(ctx, key)
	if err != nil {
		return err
	}
	return fs.CopyDir(dir, tree)
}

// Commit notes the directory that is to be replaced.
func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	if hex := info.Labels[labelTree]; hex != "" {
		dir, err := s.dirOf(ctx, key)
		if err != nil {
			return err
		}
		// Snapshots above take after it.
		if err := s.trees.likeRoot(dir, hex); err != nil {
			return err
		}
		opts = append(opts, snapshots.WithLabels(map[string]string{labelDir: dir}))
	}
	return s.Snapshotter.Commit(ctx, name, key, opts...)
}

// dirOf is the directory of a snapshot that has a single one.
func (s *snapshotter) dirOf(ctx context.Context, key string) (string, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return "", err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return "", err
	}
	if release != nil {
		defer release()
	}
	if len(mounts) != 1 || !slices.Contains([]string{"bind", "rbind"}, mounts[0].Type) {
		return "", fmt.Errorf("snapshotter %s cannot show accelerated images: a single snapshot is %v", s.Name(), mounts)
	}
	return mounts[0].Source, nil
}

func (s *snapshotter) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return s.show(ctx, m, key)
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return s.show(ctx, m, parent)
}

// show puts the trees into the mounts of a snapshot.
func (s *snapshotter) show(ctx context.Context, m snapshot.Mountable, key string) (snapshot.Mountable, error) {
	trees := map[string]string{}
	for key != "" {
		info, err := s.Stat(ctx, key)
		if err != nil {
			return nil, err
		}
		if hex, dir := info.Labels[labelTree], info.Labels[labelDir]; hex != "" && dir != "" {
			trees[dir] = hex
		}
		key = info.Parent
	}
	if len(trees) == 0 {
		return m, nil
	}
	return &mountable{m, trees, s.trees}, nil
}

// mountable is a snapshot with images in it.
type mountable struct {
	snapshot.Mountable
	trees map[string]string // the snapshotter's directory to the image in its place
	by    mounter
}

func (m *mountable) Mount() ([]mount.Mount, func() error, error) {
	at := map[string]string{}
	for dir, hex := range m.trees {
		tree, err := m.by.mount(hex)
		if err != nil {
			return nil, nil, err
		}
		at[dir] = tree
	}
	mounts, release, err := m.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	return replaceDirs(mounts, at), release, nil
}

// replaceDirs names other directories as sources of binds and lower
// directories of overlays.
func replaceDirs(mounts []mount.Mount, at map[string]string) []mount.Mount {
	one := func(dir string) string {
		if to, ok := at[dir]; ok {
			return to
		}
		return dir
	}
	out := slices.Clone(mounts)
	for i := range out {
		out[i].Source = one(out[i].Source)
		out[i].Options = slices.Clone(out[i].Options)
		for k, o := range out[i].Options {
			lower, ok := strings.CutPrefix(o, "lowerdir=")
			if !ok {
				continue
			}
			dirs := strings.Split(lower, ":")
			for d := range dirs {
				dirs[d] = one(dirs[d])
			}
			out[i].Options[k] = "lowerdir=" + strings.Join(dirs, ":")
		}
	}
	return out
}
