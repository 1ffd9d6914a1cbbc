// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"encoding/json"
	"errors"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

// recordKey is where a cache record lists its Nydus blobs, and the index by
// which the records that have any are found.
const recordKey = "lighter.nydus"

// keptBlob is a Nydus blob that a cache record has.
type keptBlob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes
}

// keptBlobs gives a record's blobs by the options that they were made with.
func keptBlobs(r cache.RefMetadata) map[string]keptBlob {
	var out map[string]keptBlob
	if raw := r.GetString(recordKey); raw != "" {
		if err := json.Unmarshal([]byte(raw), &out); err != nil {
			return nil // not of this version: made anew
		}
	}
	return out
}

func keep(r cache.RefMetadata, options string, k keptBlob) error {
	all := keptBlobs(r)
	if all == nil {
		all = map[string]keptBlob{}
	}
	all[options] = k
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return r.SetString(recordKey, string(raw), recordKey)
}

// sizes gives the bytes of Nydus blobs by cache record, and in all. A blob that
// several records have counts once, for one of them.
func (b *blobStore) sizes(ctx context.Context) (byRecord map[string]int64, all int64, err error) {
	records, err := b.cache.Search(ctx, recordKey, false)
	if err != nil {
		return nil, 0, err
	}
	byRecord = map[string]int64{}
	seen := map[digest.Digest]bool{}
	for _, r := range records {
		for _, k := range keptBlobs(r) {
			if seen[k.Digest] {
				continue
			}
			seen[k.Digest] = true
			if _, err := b.content.Info(ctx, k.Digest); cerrdefs.IsNotFound(err) {
				continue
			} else if err != nil {
				return nil, 0, err
			}
			byRecord[r.ID()] += k.Size
			all += k.Size
		}
	}
	return byRecord, all, nil
}

// usage adds what accelerated images take that are built on.
func (w *Worker) usage(ctx context.Context) (byRecord map[string]int64, all int64, err error) {
	byRecord, all, err = w.blobs.sizes(ctx)
	if err != nil {
		return nil, 0, err
	}
	lazy, err := w.bases.Sizes(ctx)
	for id, n := range lazy {
		byRecord[id] += n
		all += n
	}
	return byRecord, all, err
}

// DiskUsage counts the records' Nydus blobs as well.
func (w *Worker) DiskUsage(ctx context.Context, opt client.DiskUsageInfo) ([]*client.UsageInfo, error) {
	usage, err := w.Worker.DiskUsage(ctx, opt)
	if err != nil {
		return nil, err
	}
	sizes, _, err := w.usage(ctx)
	if err != nil {
		return nil, err
	}
	for _, u := range usage {
		u.Size += sizes[u.ID]
	}
	return usage, nil
}

// Prune frees records with their Nydus blobs. BuildKit weighs its own files
// alone against the limits, so these are lowered by the blobs' share; a limit
// may be undercut by the blobs that go in the same run.
func (w *Worker) Prune(ctx context.Context, ch chan client.UsageInfo, opts ...client.PruneInfo) error {
	sizes, all, err := w.usage(ctx)
	if err != nil {
		return err
	}
	lowered := append([]client.PruneInfo(nil), opts...)
	for i := range lowered {
		lowered[i].MaxUsedSpace = lower(lowered[i].MaxUsedSpace, all)
		lowered[i].ReservedSpace = lower(lowered[i].ReservedSpace, all)
	}
	inner := make(chan client.UsageInfo)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for u := range inner {
			u.Size += sizes[u.ID]
			if ch != nil {
				ch <- u
			}
		}
	}()
	err = w.Worker.Prune(ctx, inner, lowered...)
	close(inner)
	<-done
	return errors.Join(err, w.bases.Sweep(ctx))
}

// lower keeps zero, which is no limit, apart from a limit of nothing.
func lower(limit, by int64) int64 {
	if limit == 0 {
		return 0
	}
	return max(limit-by, 1)
}
