// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"fmt"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/worker/base"
)

// Worker is a BuildKit worker whose image, oci and docker exporters know
// compression=nydus.
type Worker struct {
	*base.Worker
	blobs *blobStore
}

// Wrap makes a Worker of one of BuildKit's. workDir is for bootstraps in the
// making; "" is the system's temporary directory.
func Wrap(w *base.Worker, workDir string) *Worker {
	return &Worker{w, &blobStore{content: w.ContentStore(), leases: w.LeaseManager(), cache: w.CacheManager(), workDir: workDir}}
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
		return c.Exporter.Resolve(ctx, id, attrs)
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
