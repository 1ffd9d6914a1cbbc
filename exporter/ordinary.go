// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"maps"

	"github.com/containerd/containerd/v2/core/content"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/exporter"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/convert"
)

// ordinary resolves the output that writes the ordinary image of a merged
// index, which is neither named nor pushed by itself; nil for another index.
func (c *chooser) ordinary(ctx context.Context, id int, o *options, rest map[string]string) (exporter.ExporterInstance, error) {
	if o.index != convert.IndexMerged {
		return nil, nil
	}
	attrs := maps.Clone(rest)
	if o.rewrite {
		attrs["rewrite-timestamp"] = "true"
	}
	upstream, err := c.Exporter.Resolve(ctx, id, attrs)
	if err != nil {
		return nil, err
	}
	return &plain{upstream, c.worker}, nil
}

// exportOrdinary writes the ordinary image. Like all that the export writes it
// is kept by the lease of ctx.
func (i *instance) exportOrdinary(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (*ocispecs.Descriptor, error) {
	if i.ordinary == nil {
		return nil, nil
	}
	_, _, ref, err := i.ordinary.Export(ctx, src, info)
	if err != nil {
		return nil, err
	}
	d := ref.Descriptor()
	return &d, ref.Release()
}

// addOrdinary adds the ordinary image's manifests to the index.
func (l *lazyIndex) addOrdinary(ctx context.Context, store content.Store, idx convert.Manifest, root ocispecs.Descriptor, p v1.Platform, several bool) (convert.Manifest, error) {
	m, err := readManifest(ctx, store, root)
	if err != nil {
		return idx, err
	}
	idx, images, err := convert.AddOrdinary(idx, m, p)
	if err != nil {
		return idx, err
	}
	for _, d := range images {
		l.children = append(l.children, child{digest.Digest(d.Digest.String()), convert.SourceTag("", *d.Platform, several)})
	}
	return idx, nil
}
