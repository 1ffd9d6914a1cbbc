// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/progress"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/convert"
)

// accessor is the cache as an image source sees it: layers of accelerated
// images become one record.
type accessor struct {
	cache.Manager
	b *Bases
}

// pull is what the source knows and the cache is not told.
type pull struct {
	group session.Group
	ref   string
	find  func(context.Context) (*found, error) // the manifests
}

type pullKey struct{}

// blobRef stands for data blobs until their bootstrap comes. It is no record.
type blobRef struct {
	cache.ImmutableRef
	blobs []ocispecs.Descriptor
}

func (b *blobRef) Release(context.Context) error { return nil }
func (b *blobRef) ID() string                    { return "" }

// GetByBlob is called for an image's layers, lowest first.
func (a *accessor) GetByBlob(ctx context.Context, d ocispecs.Descriptor, parent cache.ImmutableRef, opts ...cache.RefOption) (cache.ImmutableRef, error) {
	below, _ := parent.(*blobRef)
	switch {
	case convert.IsBootstrap(d.Annotations):
		if parent != nil && below == nil {
			return nil, fmt.Errorf("bootstrap layer %s lies over ordinary layers: such an image cannot be built on", d.Digest)
		}
		p, ok := ctx.Value(pullKey{}).(*pull)
		if !ok {
			return nil, fmt.Errorf("bootstrap layer %s: accelerated images can be built on when they come from a registry only", d.Digest)
		}
		var blobs []ocispecs.Descriptor
		if below != nil {
			blobs = below.blobs
		}
		ref, err := a.b.get(ctx, p, d, blobs, handlers(opts)[d.Digest])
		if err != nil {
			return nil, fmt.Errorf("accelerated image %s: %w", p.ref, err)
		}
		return ref, nil
	case convert.IsBlob(d.MediaType):
		if parent != nil && below == nil {
			return nil, fmt.Errorf("data blob %s lies over ordinary layers: such an image cannot be built on", d.Digest)
		}
		if convert.NeedsOther(d.Annotations) {
			return nil, fmt.Errorf("data blob %s has its data in the layers of an ordinary image: build on that image", d.Digest)
		}
		out := &blobRef{}
		if below != nil {
			out.blobs = slices.Clone(below.blobs)
		}
		out.blobs = append(out.blobs, d)
		return out, nil
	case below != nil:
		return nil, fmt.Errorf("ordinary layer %s lies over data blobs without a bootstrap: such an image cannot be built on", d.Digest)
	}
	return a.Manager.GetByBlob(ctx, d, parent, opts...)
}

func handlers(opts []cache.RefOption) cache.DescHandlers {
	for _, o := range opts {
		if h, ok := o.(cache.DescHandlers); ok {
			return h
		}
	}
	return nil
}

// get gives the record of an image, which it makes if there is none. blobs may
// be empty if the image does not list them.
func (b *Bases) get(ctx context.Context, p *pull, layer ocispecs.Descriptor, blobs []ocispecs.Descriptor, h *cache.DescHandler) (cache.ImmutableRef, error) {
	m, err := p.find(ctx)
	if err != nil {
		return nil, err
	}
	ref, err := b.have(ctx, p, layer, blobs, h, m)
	if err != nil {
		return nil, err
	}
	for _, d := range m.read { // as BuildKit does with what it has read
		if err := b.leases.AddResource(ctx, leases.Lease{ID: ref.ID()}, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			ref.Release(context.WithoutCancel(ctx))
			return nil, err
		}
	}
	return ref, nil
}

func (b *Bases) have(ctx context.Context, p *pull, layer ocispecs.Descriptor, blobs []ocispecs.Descriptor, h *cache.DescHandler, m *found) (cache.ImmutableRef, error) {
	if ref, err := b.known(ctx, layer, p.ref); ref != nil || err != nil {
		return ref, err
	}
	if h == nil {
		return nil, fmt.Errorf("bootstrap layer %s: nobody provides it", layer.Digest)
	}
	done := progress.OneOff(ctx, "fetching bootstrap "+layer.Digest.String())
	fresh, err := b.store.fetchLayer(ctx, h.Provider(p.group), layer)
	if done(err) != nil {
		return nil, err
	}
	defer b.store.discard(fresh)
	if len(blobs) == 0 {
		blobs = m.blobs()
	}
	for _, d := range blobs {
		fresh.Blobs = append(fresh.Blobs, ocispecs.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: kept(d.Annotations)})
	}
	fresh.Refs = []string{p.ref}

	b.mu.Lock()
	defer b.mu.Unlock()
	if ref, err := b.knownLocked(ctx, layer, p.ref); ref != nil || err != nil {
		return ref, err // somebody was faster
	}
	hex := layer.Digest.Encoded()
	if _, err := b.store.load(hex); errors.Is(err, fs.ErrNotExist) {
		if err := b.store.place(fresh); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return b.record(ctx, p, hex)
}

// kept leaves out what only this daemon means.
func kept(in map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range in {
		if k != "containerd.io/uncompressed" {
			out[k] = v
		}
	}
	return out
}

// record makes the cache record of an image whose files are in place.
func (b *Bases) record(ctx context.Context, p *pull, hex string) (_ cache.ImmutableRef, err error) {
	mutable, err := b.cache.New(withTree(ctx, hex), nil, p.group, cache.WithDescription("built on "+p.ref+" without pulling it"))
	if err != nil {
		return nil, err
	}
	ref, err := mutable.Commit(ctx)
	if err != nil {
		mutable.Release(context.WithoutCancel(ctx))
		return nil, err
	}
	if err = ref.Finalize(ctx); err == nil {
		err = ref.SetString(recordKey, "sha256:"+hex, recordKey+":"+hex)
	}
	if err != nil {
		ref.Release(context.WithoutCancel(ctx))
		return nil, err
	}
	return ref, nil
}

// known gives the record of an image, nil if there is none.
func (b *Bases) known(ctx context.Context, layer ocispecs.Descriptor, ref string) (cache.ImmutableRef, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.knownLocked(ctx, layer, ref)
}

func (b *Bases) knownLocked(ctx context.Context, layer ocispecs.Descriptor, ref string) (cache.ImmutableRef, error) {
	hex := layer.Digest.Encoded()
	im, err := b.store.load(hex)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	records, err := b.cache.Search(ctx, recordKey+":"+hex, false)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		got, err := b.cache.Get(ctx, r.ID(), nil)
		if cache.IsNotFound(err) {
			continue // being pruned
		}
		if err != nil {
			return nil, err
		}
		return got, b.store.addRef(im, ref)
	}
	return nil, nil
}
