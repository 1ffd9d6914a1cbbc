// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/moby/buildkit/cache"
	cachetypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/solver/result"
)

// reindexed is an inline cache for an image on accelerated bases. BuildKit
// counts layers as an ordinary image would have them, with one for each base,
// and the cache is read together with the image's own list, with all the blobs.
func reindexed(get exptypes.InlineCache, src *exporter.Source) exptypes.InlineCache {
	if get == nil {
		return nil
	}
	return func(ctx context.Context) (*result.Result[*exptypes.InlineCacheEntry], error) {
		r, err := get(ctx)
		if err != nil || r == nil {
			return r, err
		}
		out := r.Clone()
		if out.Ref, err = reindexEntry(r.Ref, src.Ref); err != nil {
			return nil, err
		}
		for id, e := range r.Refs {
			of, _ := src.FindRef(id)
			if out.Refs[id], err = reindexEntry(e, of); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
}

func reindexEntry(e *exptypes.InlineCacheEntry, of cache.ImmutableRef) (*exptypes.InlineCacheEntry, error) {
	r, ok := of.(*ref)
	if e == nil || len(e.Data) == 0 || !ok || r.ImmutableRef == nil {
		return e, nil
	}
	counts, based, err := r.blobCounts()
	if err != nil || !based {
		return e, err
	}
	data, err := reindex(e.Data, counts)
	if err != nil {
		return nil, fmt.Errorf("inline cache: %w", err)
	}
	return &exptypes.InlineCacheEntry{Data: data}, nil
}

// blobCounts is how many data blobs each layer of the chain is, and whether any
// is an accelerated base.
func (r *ref) blobCounts() (counts []int, based bool, err error) {
	chain := r.ImmutableRef.LayerChain()
	defer chain.Release(context.Background())
	for _, l := range chain {
		im, err := r.blobs.bases.Of(l)
		if err != nil {
			return nil, false, err
		}
		n := 1
		if im != nil {
			n, based = len(im.Blobs), true
		}
		counts = append(counts, n)
	}
	return counts, based, nil
}

// reindex translates the layer numbers in cache records, where layer i is
// counts[i] blobs.
func reindex(data []byte, counts []int) ([]byte, error) {
	var records []cachetypes.CacheRecord
	if err := json.Unmarshal(data, &records); err != nil {
		return nil, err
	}
	ends := make([]int, len(counts)) // number of the blob after layer i
	end := 0
	for i, n := range counts {
		end += n
		ends[i] = end
	}
	for i := range records {
		for k := range records[i].Results {
			at := &records[i].Results[k].LayerIndex
			if *at < 0 || *at >= len(ends) {
				return nil, fmt.Errorf("layer %d of %d", *at, len(ends))
			}
			*at = ends[*at] - 1
		}
		for k := range records[i].ChainedResults {
			var blobs []int
			for _, at := range records[i].ChainedResults[k].LayerIndexes {
				if at < 0 || at >= len(ends) {
					return nil, fmt.Errorf("layer %d of %d", at, len(ends))
				}
				for b := ends[at] - counts[at]; b < ends[at]; b++ {
					blobs = append(blobs, b)
				}
			}
			records[i].ChainedResults[k].LayerIndexes = blobs
		}
	}
	return json.Marshal(records)
}
