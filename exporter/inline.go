// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"errors"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/solver/result"
)

// inlineOverOrdinary refuses an inline cache of what is built on an accelerated
// image. Such a cache counts layers, and the base is one layer to BuildKit but
// several in the image. Elsewhere the Nydus blobs come in the order of the
// layers that they are made of, and the bootstrap last, which no record names.
func inlineOverOrdinary(get exptypes.InlineCache, src *exporter.Source) exptypes.InlineCache {
	if get == nil {
		return nil
	}
	return func(ctx context.Context) (*result.Result[*exptypes.InlineCacheEntry], error) {
		out, err := get(ctx)
		if err != nil || out == nil {
			return out, err
		}
		refs := []cache.ImmutableRef{src.Ref}
		for _, r := range src.Refs {
			refs = append(refs, r)
		}
		for _, r := range refs {
			if r, ok := r.(*ref); ok {
				if bases, err := r.basesOf(); err != nil {
					return nil, err
				} else if len(bases) > 0 {
					return nil, errors.New("an inline cache does not go with a base image that is accelerated; export the cache with type=registry")
				}
			}
		}
		return out, nil
	}
}
