// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/convert"
	"lighter/exporter/lazybase"
)

// ref is a build's result whose layers are Nydus blobs and a bootstrap. The
// embedded reference is nil for an image without layers.
type ref struct {
	cache.ImmutableRef
	blobs *blobStore
	o     *options
	clamp *clamp

	mu    sync.Mutex
	descs []ocispecs.Descriptor // what GetRemotes gives, once made
	bases []*lazybase.Image     // among the layers
}

// GetRemotes gives the layers as Nydus blobs. BuildKit asks again when it pushes.
func (r *ref) GetRemotes(ctx context.Context, _ bool, cfg cacheconfig.RefConfig, _ bool, s session.Group) ([]*solver.Remote, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.descs == nil {
		bases, err := r.basesOf()
		if err != nil {
			return nil, err
		}
		descs, err := r.blobs.image(ctx, r, cfg, s)
		if err != nil {
			return nil, err
		}
		r.bases = bases
		r.descs = descs
	}
	out := slices.Clone(r.descs)
	for i := range out {
		ann := make(map[string]string, len(out[i].Annotations))
		for k, v := range out[i].Annotations {
			ann[k] = v
		}
		out[i].Annotations = ann
	}
	return []*solver.Remote{{Descriptors: out, Provider: r.blobs.provider(r.bases, s)}}, nil
}

// LayerChain has one entry for each data blob, those of bases included, and one
// for the bootstrap.
func (r *ref) LayerChain() cache.RefList {
	if r.ImmutableRef == nil {
		return cache.RefList{&addedRef{description: convert.HistoryBy}}
	}
	var out cache.RefList
	for _, l := range r.ImmutableRef.LayerChain() {
		if im, err := r.blobs.bases.Of(l); err == nil && im != nil {
			if len(im.Blobs) == 0 {
				l.Release(context.Background())
				continue
			}
			for range im.Blobs[1:] {
				out = append(out, &addedRef{l, l.GetDescription(), l.GetCreatedAt()})
			}
		}
		out = append(out, l)
	}
	boot := &addedRef{description: convert.HistoryBy}
	if n := len(out); n > 0 {
		boot.ImmutableRef, boot.created = out[n-1], out[n-1].GetCreatedAt()
	}
	return append(out, boot)
}

// addedRef stands in a chain of layers for one that has no record of its own.
// It borrows the reference of another and does not release it.
type addedRef struct {
	cache.ImmutableRef
	description string
	created     time.Time
}

func (a *addedRef) Release(context.Context) error { return nil }
func (a *addedRef) GetDescription() string        { return a.description }
func (a *addedRef) GetCreatedAt() time.Time       { return a.created }

func (a *addedRef) FileList(context.Context, session.Group) ([]string, error) {
	return nil, nil // its files are told of with the layer that it borrows from
}

// addHistory appends the bootstrap's line to the image's history, if that has
// one for each of the n layers. Otherwise BuildKit makes lines of LayerChain.
func addHistory(meta map[string][]byte, p *exptypes.Platform, n int) error {
	key := configKey(meta, p)
	if len(meta[key]) == 0 {
		return nil
	}
	config, history, err := splitHistory(meta[key])
	if err != nil {
		return err
	}
	for _, h := range history {
		if !h.EmptyLayer {
			n--
		}
	}
	if n != 0 {
		return nil
	}
	meta[key], err = joinHistory(config, append(history, ocispecs.History{CreatedBy: convert.HistoryBy, Comment: convert.HistoryNote}))
	return err
}

// clamp sets file times that lie after the epoch back to it, except in the
// layers of the base image.
type clamp struct {
	epoch time.Time
	base  []digest.Digest // diff ids of the base image
}

func baseDiffIDs(config []byte) ([]digest.Digest, error) {
	if len(config) == 0 {
		return nil, nil
	}
	var im ocispecs.Image
	if err := json.Unmarshal(config, &im); err != nil {
		return nil, fmt.Errorf("base image config: %w", err)
	}
	return im.RootFS.DiffIDs, nil
}

// keeps says whether layer i, whose blob may be unknown, is of the base image.
func (c *clamp) keeps(i int, d *ocispecs.Descriptor) bool {
	return d != nil && i < len(c.base) && d.Annotations[labels.LabelUncompressed] == c.base[i].String()
}
