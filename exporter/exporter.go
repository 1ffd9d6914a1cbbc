// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"fmt"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/exporter/util/epoch"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/leaseutil"

	"lighter/convert"
)

// instance is one output with compression=nydus.
type instance struct {
	exporter.ExporterInstance
	ordinary exporter.ExporterInstance // of a merged index
	worker   *Worker
	sessions *session.Manager
	attrs    map[string]string
	o        *options
}

// Attrs are the output's attributes as the user gave them.
func (i *instance) Attrs() map[string]string { return i.attrs }

// Export lets BuildKit's exporter write the image with Nydus layers, and makes
// of an image's manifests the index that leads with the bootstrap.
func (i *instance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (_ map[string]string, _ exporter.FinalizeFunc, _ exporter.DescriptorReference, err error) {
	ctx, done, err := leaseutil.WithLease(ctx, i.worker.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return nil, nil, nil, err
	}
	kept := false
	release := func(context.Context) error { return done(context.WithoutCancel(ctx)) }
	defer func() {
		if !kept {
			release(ctx)
		}
	}()
	wrapped, err := i.wrap(src, session.NewGroup(info.SessionID))
	if err != nil {
		return nil, nil, nil, err
	}
	info.InlineCache = reindexed(info.InlineCache, wrapped)
	resp, finalize, desc, err := i.ExporterInstance.Export(ctx, wrapped, info)
	if err != nil {
		return nil, nil, nil, err
	}
	if desc == nil { // nothing to hold
		return resp, finalize, nil, nil
	}
	if i.o.index == convert.IndexNone {
		kept = true
		return resp, finalize, &held{desc, release}, nil
	}
	defer desc.Release()
	plain, err := i.exportOrdinary(ctx, src, info)
	if err != nil {
		return nil, nil, nil, err
	}
	lazy, err := i.lead(ctx, desc.Descriptor(), plain, wrapped, info, resp)
	if err != nil {
		return nil, nil, nil, err
	}
	kept = true
	return resp, lazy.finalize(), lazy.descriptor(release), nil
}

// wrap gives the build's result with references whose layers are Nydus blobs.
func (i *instance) wrap(src *exporter.Source, s session.Group) (*exporter.Source, error) {
	out := src.Clone()
	if out.Metadata == nil {
		out.Metadata = map[string][]byte{}
	}
	one := func(r cache.ImmutableRef, p *exptypes.Platform) (cache.ImmutableRef, error) {
		clamp, err := i.clamp(src, p)
		if err != nil {
			return nil, err
		}
		wrapped := &ref{ImmutableRef: r, blobs: i.worker.blobs, o: i.o, clamp: clamp}
		chain := wrapped.LayerChain()
		n := len(chain) - 1
		chain.Release(context.Background())
		if err := addHistory(out.Metadata, p, n); err != nil {
			return nil, err
		}
		return wrapped, nil
	}
	if len(out.Refs) > 0 {
		ps, err := exptypes.ParsePlatforms(src.Metadata)
		if err != nil {
			return nil, err
		}
		for _, p := range ps.Platforms {
			r, ok := src.FindRef(p.ID)
			if !ok {
				continue // BuildKit names what is missing
			}
			if out.Refs[p.ID], err = one(r, &p); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	var p *exptypes.Platform
	ps, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	if len(ps.Platforms) == 1 {
		p = &ps.Platforms[0]
	}
	out.Ref, err = one(src.Ref, p)
	return out, err
}

// clamp says how an image's files get their times, nil: they stay.
func (i *instance) clamp(src *exporter.Source, p *exptypes.Platform) (*clamp, error) {
	if !i.o.rewrite {
		return nil, nil
	}
	var to *time.Time
	e, _, err := epoch.ParseExporterAttrs(i.attrs)
	if err != nil {
		return nil, err
	}
	if e != nil {
		to = e.Value
	} else if to, err = epoch.ParseSource(src, p); err != nil {
		return nil, err
	}
	if to == nil {
		return nil, nil
	}
	base, err := baseDiffIDs(exptypes.ParseKey(src.Metadata, exptypes.ExporterImageBaseConfigKey, p))
	if err != nil {
		return nil, err
	}
	return &clamp{to.UTC(), base}, nil
}

// annotate adds what the full manifest says of itself to BuildKit's attributes.
func (o *options) annotate(attrs map[string]string) error {
	repository := ""
	if len(o.names) > 0 && o.names[0] != "*" {
		named, err := reference.ParseNormalizedNamed(o.names[0])
		if err != nil {
			return fmt.Errorf("exporter option name=%s: %w", o.names[0], err)
		}
		repository = named.Name()
	}
	for k, v := range convert.ManifestAnnotations(repository, o.build) {
		attrs[exptypes.AnnotationManifestKey(nil, k)] = v
	}
	return nil
}

// repository is "host/repository" of the first name, "" without one.
func (o *options) repository() string {
	if len(o.names) == 0 {
		return ""
	}
	named, err := reference.ParseNormalizedNamed(o.names[0])
	if err != nil {
		return ""
	}
	return named.Name()
}

// held is a descriptor whose release ends our lease as well.
type held struct {
	exporter.DescriptorReference
	release func(context.Context) error
}

func (h *held) Release() error {
	err := h.DescriptorReference.Release()
	if rerr := h.release(context.Background()); err == nil {
		err = rerr
	}
	return err
}
