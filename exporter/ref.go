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
}

// GetRemotes gives the layers as Nydus blobs. BuildKit asks again when it pushes.
func (r *ref) GetRemotes(ctx context.Context, _ bool, cfg cacheconfig.RefConfig, _ bool, s session.Group) ([]*solver.Remote, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.descs == nil {
		descs, err := r.blobs.image(ctx, r, cfg, s)
		if err != nil {
			return nil, err
		}
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
	return []*solver.Remote{{Descriptors: out, Provider: r.blobs.content}}, nil
}

// LayerChain has one entry more, for the bootstrap.
func (r *ref) LayerChain() cache.RefList {
	if r.ImmutableRef == nil {
		return cache.RefList{&bootstrapRef{}}
	}
	chain := r.ImmutableRef.LayerChain()
	boot := &bootstrapRef{}
	if len(chain) > 0 {
		boot.ImmutableRef, boot.created = chain[len(chain)-1], chain[len(chain)-1].GetCreatedAt()
	}
	return append(chain, boot)
}

// bootstrapRef stands for the bootstrap in a chain of layers. It borrows the
// reference of the last layer and does not release it.
type bootstrapRef struct {
	cache.ImmutableRef
	created time.Time
}

func (b *bootstrapRef) Release(context.Context) error { return nil }
func (b *bootstrapRef) GetDescription() string        { return convert.HistoryBy }
func (b *bootstrapRef) GetCreatedAt() time.Time       { return b.created }

func (b *bootstrapRef) FileList(context.Context, session.Group) ([]string, error) {
	return nil, nil // the bootstrap brings no file of its own
}

// addHistory appends the bootstrap's line to the image's history, if that has
// one for each of the n layers. Otherwise BuildKit makes lines of LayerChain.
func addHistory(meta map[string][]byte, p *exptypes.Platform, n int) error {
	key := exptypes.ExporterImageConfigKey
	if p != nil {
		if k := fmt.Sprintf("%s/%s", key, p.ID); len(meta[k]) > 0 {
			key = k
		}
	}
	if len(meta[key]) == 0 {
		return nil
	}
	var config map[string]json.RawMessage
	if err := json.Unmarshal(meta[key], &config); err != nil {
		return fmt.Errorf("image config: %w", err)
	}
	var history []ocispecs.History
	if h := config["history"]; len(h) > 0 {
		if err := json.Unmarshal(h, &history); err != nil {
			return fmt.Errorf("image config: history: %w", err)
		}
	}
	for _, h := range history {
		if !h.EmptyLayer {
			n--
		}
	}
	if n != 0 {
		return nil
	}
	raw, err := json.Marshal(append(history, ocispecs.History{CreatedBy: convert.HistoryBy, Comment: convert.HistoryNote}))
	if err != nil {
		return err
	}
	config["history"] = raw
	meta[key], err = json.Marshal(config)
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
