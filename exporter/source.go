// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"archive/tar"
	"context"
	"errors"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/util/converter/tarconverter"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobOf is a layer's ordinary blob. It may be lazy, that is, lie in a registry
// until it is read.
type blobOf struct {
	desc     ocispecs.Descriptor
	provider content.Provider
}

func descOf(b *blobOf) *ocispecs.Descriptor {
	if b == nil {
		return nil
	}
	return &b.desc
}

// ordinaryBlob gives the blob that a layer has, nil if there is none.
func ordinaryBlob(ctx context.Context, l cache.ImmutableRef, cfg cacheconfig.RefConfig, s session.Group) (*blobOf, error) {
	b, err := remoteBlob(ctx, l, false, cfg, s)
	if errors.Is(err, cache.ErrNoBlobs) {
		return nil, nil
	}
	return b, err
}

// createBlob lets BuildKit make the layer's ordinary blob.
func createBlob(ctx context.Context, l cache.ImmutableRef, cfg cacheconfig.RefConfig, s session.Group) (*blobOf, error) {
	return remoteBlob(ctx, l, true, cfg, s)
}

func remoteBlob(ctx context.Context, l cache.ImmutableRef, create bool, cfg cacheconfig.RefConfig, s session.Group) (*blobOf, error) {
	cfg.Compression = compression.New(compression.Default)
	remotes, err := l.GetRemotes(ctx, create, cfg, false, s)
	if err != nil {
		return nil, err
	}
	descs := remotes[0].Descriptors
	if len(descs) == 0 {
		return nil, cache.ErrNoBlobs
	}
	return &blobOf{descs[len(descs)-1], remotes[0].Provider}, nil
}

// open streams the layer's tar.
func (b *blobOf) open(ctx context.Context, cs content.Store) (io.ReadCloser, error) {
	from, err := compression.FromMediaType(b.desc.MediaType)
	if err != nil {
		return nil, err
	}
	return from.Decompress(ctx, contentutil.NewStoreWithProvider(cs, b.provider), b.desc)
}

// reader clamps the times in a tar stream; a nil clamp changes nothing. stop
// must be called after reading.
func (c *clamp) reader(r io.Reader) (_ io.Reader, stop func()) {
	if c == nil {
		return r, func() {}
	}
	out := tarconverter.NewReader(r, func(h *tar.Header) {
		if h.ModTime.After(c.epoch) {
			h.ModTime = c.epoch
		}
		if h.AccessTime.After(c.epoch) {
			h.AccessTime = c.epoch
		}
		if h.ChangeTime.After(c.epoch) {
			h.ChangeTime = c.epoch
		}
	})
	return out, func() { out.Close() }
}
