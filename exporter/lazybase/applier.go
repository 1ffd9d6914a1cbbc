// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/util/compression"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/format"
)

// applier unpacks layers, and refuses those that carry a bootstrap: an
// accelerated image whose annotations were lost, as docker push loses them,
// would seem to hold the bootstrap's file and nothing else.
type applier struct {
	diff.Applier
	content content.Store
}

// Applier wraps the one of a worker.
func (b *Bases) Applier(a diff.Applier) diff.Applier { return &applier{a, b.o.Content} }

func (a *applier) Apply(ctx context.Context, d ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	if from, err := compression.FromMediaType(d.MediaType); err == nil {
		if r, err := from.Decompress(ctx, a.content, d); err == nil {
			found := carriesBootstrap(r)
			r.Close()
			if found {
				return ocispecs.Descriptor{}, fmt.Errorf("layer %s is the bootstrap of an accelerated image that lost its annotations: "+
					"build on the image that it was pulled from, or copy that one with `lighter copy`", d.Digest)
			}
		}
	}
	return a.Applier.Apply(ctx, d, mounts, opts...)
}

// carriesBootstrap looks at the first files of a layer's tar.
func carriesBootstrap(r io.Reader) bool {
	tr := tar.NewReader(r)
	for range 2 { // a directory may come first
		h, err := tr.Next()
		if err != nil {
			return false
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if name := path.Clean(h.Name); name != "image/"+bootName && name != bootName {
			return false
		}
		head := make([]byte, 4096)
		n, _ := io.ReadFull(tr, head)
		return format.IsBootstrap(head[:n])
	}
	return false
}
