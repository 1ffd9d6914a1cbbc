// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/worker/base"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/exporter/lazybase"
)

// Worker is a BuildKit worker whose image, oci and docker exporters know
// compression=nydus.
type Worker struct {
	*base.Worker
	blobs *blobStore
	bases *lazybase.Bases
}

// NewWorker makes one of BuildKit's workers and wraps it. workDir is for
// bootstraps in the making; "" is the system's temporary directory.
func NewWorker(ctx context.Context, opt base.WorkerOpt, sessions *session.Manager, workDir string) (*Worker, error) {
	bases, err := lazybase.New(lazybase.Options{
		Dir: filepath.Join(opt.Root, "lazy"), Sessions: sessions, Hosts: opt.RegistryHosts, Content: opt.ContentStore,
	})
	if err != nil {
		return nil, err
	}
	opt.Snapshotter, opt.Applier = bases.Snapshotter(opt.Snapshotter), bases.Applier(opt.Applier)
	w, err := base.NewWorker(ctx, opt)
	if err != nil {
		return nil, err
	}
	if err := bases.Attach(w); err != nil {
		return nil, err
	}
	blobs := &blobStore{content: w.ContentStore(), leases: w.LeaseManager(), cache: w.CacheManager(), bases: bases, workDir: workDir}
	return &Worker{w, blobs, bases}, nil
}

// Close ends the worker and unmounts the images that it builds on.
func (w *Worker) Close() error { return errors.Join(w.Worker.Close(), w.bases.Close()) }

// ResolveSourceMetadata is BuildKit's. An accelerated image's config says what
// its data blobs are made of, as that of an ordinary image does.
func (w *Worker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, j solver.JobContext) (*sourceresolver.MetaResponse, error) {
	resp, err := w.Worker.ResolveSourceMetadata(ctx, op, opt, sm, j)
	if err != nil || resp.Image == nil || len(resp.Image.Config) == 0 {
		return resp, err
	}
	id, err := w.ParseSource(op, nil)
	if err != nil {
		return nil, err
	}
	im, ok := id.(*containerimage.ImageIdentifier)
	if !ok {
		return resp, nil
	}
	var g session.Group
	if j != nil {
		g = j.Session()
	}
	var p *ocispecs.Platform
	if opt.ImageOpt != nil {
		p = opt.ImageOpt.Platform
	}
	resp.Image.Config, err = w.bases.Config(ctx, im.Reference.String(), resp.Image.Digest, p, resp.Image.Config, g)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", im.Reference, err)
	}
	return resp, nil
}

// Exporter gives the named exporter, as BuildKit's worker does.
func (w *Worker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	upstream, err := w.Worker.Exporter(name, sm)
	if err != nil {
		return nil, err
	}
	switch name {
	case client.ExporterImage, client.ExporterOCI, client.ExporterDocker:
		return &chooser{upstream, w, sm, name == client.ExporterImage}, nil
	}
	return upstream, nil
}

// chooser takes the outputs with compression=nydus and leaves all others alone.
type chooser struct {
	exporter.Exporter
	worker   *Worker
	sessions *session.Manager
	image    bool
}

func (c *chooser) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	if attrs["compression"] != Compression {
		for name := range attrs {
			if _, ok := attributes[name]; ok && len(name) > len(prefix) && name[:len(prefix)] == prefix {
				return nil, fmt.Errorf("exporter option %q goes with compression=%s", name, Compression)
			}
		}
		upstream, err := c.Exporter.Resolve(ctx, id, attrs)
		if err != nil {
			return nil, err
		}
		return &plain{upstream, c.worker}, nil
	}
	o, rest, err := parseAttrs(attrs, c.image)
	if err != nil {
		return nil, err
	}
	ordinary, err := c.ordinary(ctx, id, o, rest)
	if err != nil {
		return nil, err
	}
	if err := o.annotate(rest); err != nil {
		return nil, err
	}
	upstream, err := c.Exporter.Resolve(ctx, id, rest)
	if err != nil {
		return nil, err
	}
	return &instance{ExporterInstance: upstream, ordinary: ordinary, worker: c.worker, sessions: c.sessions, attrs: attrs, o: o}, nil
}
