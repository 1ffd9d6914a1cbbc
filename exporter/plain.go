// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// plain is one output with ordinary layers. An accelerated base becomes a
// single one of them, which the history must not take for its many blobs.
type plain struct {
	exporter.ExporterInstance
	worker *Worker
}

func (i *plain) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error) {
	out := src.Clone()
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, nil, nil, err
	}
	if out.Ref != nil {
		err = i.worker.flatten(out.Metadata, nil, out.Ref)
	}
	for _, p := range ps.Platforms {
		if r, ok := src.FindRef(p.ID); ok && r != nil && err == nil {
			err = i.worker.flatten(out.Metadata, &p, r)
		}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return i.ExporterInstance.Export(ctx, out, info)
}

// flatten makes each accelerated image in a chain one layer of the history.
func (w *Worker) flatten(meta map[string][]byte, p *exptypes.Platform, r cache.ImmutableRef) error {
	chain := r.LayerChain()
	defer chain.Release(context.Background())
	var lines []int // of each layer of the chain
	blobs := 0
	for _, l := range chain {
		im, err := w.bases.Of(l)
		if err != nil {
			return err
		}
		n := 1
		if im != nil {
			n, blobs = len(im.Blobs), blobs+len(im.Blobs)
		}
		lines = append(lines, n)
	}
	key := configKey(meta, p)
	if blobs == 0 || len(meta[key]) == 0 {
		return nil
	}
	config, history, err := splitHistory(meta[key])
	if err != nil {
		return err
	}
	i := 0
	for _, n := range lines {
		for ; n > 0 && i < len(history); i++ {
			if history[i].EmptyLayer {
				continue
			}
			n--
			history[i].EmptyLayer = n > 0
		}
	}
	meta[key], err = joinHistory(config, history)
	return err
}

// configKey is where a platform's image config is.
func configKey(meta map[string][]byte, p *exptypes.Platform) string {
	if p != nil {
		if k := fmt.Sprintf("%s/%s", exptypes.ExporterImageConfigKey, p.ID); len(meta[k]) > 0 {
			return k
		}
	}
	return exptypes.ExporterImageConfigKey
}

// splitHistory reads an image config of which only the history is understood.
func splitHistory(raw []byte) (config map[string]json.RawMessage, history []ocispecs.History, err error) {
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, nil, fmt.Errorf("image config: %w", err)
	}
	if h := config["history"]; len(h) > 0 {
		if err := json.Unmarshal(h, &history); err != nil {
			return nil, nil, fmt.Errorf("image config: history: %w", err)
		}
	}
	return config, history, nil
}

func joinHistory(config map[string]json.RawMessage, history []ocispecs.History) ([]byte, error) {
	raw, err := json.Marshal(history)
	if err != nil {
		return nil, err
	}
	config["history"] = raw
	return json.Marshal(config)
}
