// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/overlay"
)

// diff is a layer that has no blob yet: what lies between two mounts.
type diff struct {
	lower, upper []mount.Mount // lower is nil for a bottommost layer
	release      func()
}

// diffOf mounts a layer and its parent. It gives nil for a layer that is not
// simply a snapshot over its parent, and where the parent cannot be had.
func (b *blobStore) diffOf(ctx context.Context, l cache.ImmutableRef, s session.Group) (_ *diff, err error) {
	usage, err := b.cache.DiskUsage(ctx, client.DiskUsageInfo{Filter: []string{"id==" + l.ID()}})
	if err != nil {
		return nil, err
	}
	if len(usage) != 1 {
		return nil, nil
	}
	chain := l.LayerChain()
	n := len(chain)
	chain.Release(context.WithoutCancel(ctx))
	parents := usage[0].Parents
	// A chain of one with a parent is the difference of two other records; its
	// own mount does not show what was deleted.
	if len(parents) > 1 || len(parents) == 1 && n == 1 {
		return nil, nil
	}
	d := &diff{}
	var undo []func()
	d.release = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			d.release()
		}
	}()
	if len(parents) == 1 {
		parent, err := b.cache.Get(ctx, parents[0], nil, cache.NoUpdateLastUsed)
		if err != nil {
			bklog.G(ctx).WithError(err).Debugf("layer %s: parent is not at hand", l.ID())
			return nil, nil
		}
		undo = append(undo, func() { parent.Release(context.WithoutCancel(ctx)) })
		var release func()
		if d.lower, release, err = mountsOf(ctx, parent, s); err != nil {
			return nil, err
		}
		undo = append(undo, release)
	}
	var release func()
	if d.upper, release, err = mountsOf(ctx, l, s); err != nil {
		return nil, err
	}
	undo = append(undo, release)
	return d, nil
}

func mountsOf(ctx context.Context, r cache.ImmutableRef, s session.Group) ([]mount.Mount, func(), error) {
	m, err := r.Mount(ctx, true, s)
	if err != nil {
		return nil, nil, err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return nil, nil, err
	}
	if release == nil {
		return mounts, func() {}, nil
	}
	return mounts, func() { release() }, nil
}

// fromDiff builds the blob while the diff is being walked. Where the upper
// directory of an overlay tells the diff, nothing else is looked at; otherwise
// both trees are compared.
func (b *blobStore) fromDiff(ctx context.Context, d *diff, o *options, to *clamp) (*part, error) {
	upperdir, err := overlay.GetUpperdir(d.lower, d.upper)
	if err == nil {
		p, err := b.buildFrom(ctx, o, to, func(w io.Writer) error { return overlay.WriteUpperdir(ctx, w, upperdir, d.lower) })
		if err == nil || ctx.Err() != nil {
			return p, err
		}
		bklog.G(ctx).WithError(err).Warn("layer is compared with its parent, for its overlay does not tell the difference")
	}
	return b.buildFrom(ctx, o, to, func(w io.Writer) error {
		return mount.WithReadonlyTempMount(ctx, d.lower, func(lower string) error {
			return mount.WithReadonlyTempMount(ctx, d.upper, func(upper string) error {
				return archive.WriteDiff(ctx, w, lower, upper)
			})
		})
	})
}

// buildFrom builds the blob of the tar that write writes.
func (b *blobStore) buildFrom(ctx context.Context, o *options, to *clamp, write func(io.Writer) error) (*part, error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		buf := bufio.NewWriterSize(w, 1<<20)
		err := write(buf)
		if err == nil {
			err = buf.Flush()
		}
		w.CloseWithError(err)
		written <- err
	}()
	p, err := b.build(ctx, r, o, to)
	r.CloseWithError(fmt.Errorf("layer is not built any further: %w", errOr(err, io.ErrClosedPipe)))
	if werr := <-written; err == nil {
		err = werr
	}
	return p, err
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
