// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/exporter/lazybase"
	"lighter/format"
)

// onBases fills in the parts of a chain that are accelerated images, and gives
// options with which new layers can be merged with them.
func (b *blobStore) onBases(chain cache.RefList, parts []*part, o *options) (*options, error) {
	for i, l := range chain {
		im, err := b.bases.Of(l)
		if err != nil {
			return nil, err
		}
		if im == nil {
			continue
		}
		p := &part{base: im}
		if p.Bootstrap, err = os.ReadFile(im.Bootstrap()); err != nil {
			return nil, err
		}
		if p.Metas, err = im.Metas(); err != nil {
			return nil, err
		}
		if o, err = o.like(p.Bootstrap); err != nil {
			return nil, fmt.Errorf("accelerated image %s: %w", im.Refs[len(im.Refs)-1], err)
		}
		parts[i] = p
	}
	return o, nil
}

// like gives the options that layers over an image must have: its chunk size
// and its digester.
func (o *options) like(bootstrap []byte) (*options, error) {
	boot, err := format.Open(bytes.NewReader(bootstrap), int64(len(bootstrap)))
	if err != nil {
		return nil, err
	}
	info := boot.Info()
	if info.Version != 6 {
		return nil, fmt.Errorf("%w: it is of RAFS v%d, and new layers are of v6; convert it anew, or make an ordinary image on it", format.ErrUnsupported, info.Version)
	}
	if o.build.ChunkSize != 0 && o.build.ChunkSize != info.ChunkSize {
		return nil, fmt.Errorf("its chunks are of %d bytes, which %schunk-size=%d does not go with", info.ChunkSize, prefix, o.build.ChunkSize)
	}
	out := *o
	out.build.ChunkSize, out.build.Digester = info.ChunkSize, info.Digester
	return &out, nil
}

// sourceLabel, with a registry's host name, is how BuildKit's pusher is told
// which repositories may have a blob already.
const sourceLabel = "containerd.io/distribution.source."

// baseDescriptors are an image's data blobs as layers of another. A registry
// that has them is asked to mount them.
func baseDescriptors(im *lazybase.Image) []ocispecs.Descriptor {
	from := map[string][]string{} // label to repositories
	for _, r := range im.Repositories() {
		named, err := reference.ParseNormalizedNamed(r)
		if err != nil {
			continue
		}
		host, _, _ := strings.Cut(reference.Domain(named), ":")
		from[sourceLabel+host] = append(from[sourceLabel+host], reference.Path(named))
	}
	var out []ocispecs.Descriptor
	for _, d := range im.Blobs {
		ann := map[string]string{labels.LabelUncompressed: d.Digest.String()}
		for k, v := range d.Annotations {
			ann[k] = v
		}
		for k, v := range from {
			ann[k] = strings.Join(v, ",")
		}
		d.Annotations = ann
		out = append(out, d)
	}
	return out
}

// basesOf are the accelerated images among the layers of a result.
func (r *ref) basesOf() ([]*lazybase.Image, error) {
	if r.ImmutableRef == nil {
		return nil, nil
	}
	chain := r.ImmutableRef.LayerChain()
	defer chain.Release(context.Background())
	var out []*lazybase.Image
	for _, l := range chain {
		im, err := r.blobs.bases.Of(l)
		if err != nil {
			return nil, err
		}
		if im != nil {
			out = append(out, im)
		}
	}
	return out, nil
}

// basesOf are the accelerated images below the wrapped references of a build.
func basesOf(src *exporter.Source) (out []*lazybase.Image) {
	refs := []cache.ImmutableRef{src.Ref}
	for _, r := range src.Refs {
		refs = append(refs, r)
	}
	for _, r := range refs {
		if r, ok := r.(*ref); ok {
			r.mu.Lock()
			out = append(out, r.bases...)
			r.mu.Unlock()
		}
	}
	return out
}

// provider reads blobs that are here, and those of bases that are not from
// where these came from.
type provider struct {
	content.Store
	bases []content.InfoReaderProvider
}

func (b *blobStore) provider(images []*lazybase.Image, s session.Group) *provider {
	p := &provider{Store: b.content}
	for _, im := range images {
		p.bases = append(p.bases, b.bases.Provider(im, s))
	}
	return p
}

func (p *provider) ReaderAt(ctx context.Context, d ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := p.Store.ReaderAt(ctx, d)
	for _, from := range p.bases {
		if err == nil || !cerrdefs.IsNotFound(err) {
			break
		}
		if _, ierr := from.Info(ctx, d.Digest); ierr == nil {
			ra, err = from.ReaderAt(ctx, d)
		}
	}
	return ra, err
}

func (p *provider) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	info, err := p.Store.Info(ctx, d)
	for _, from := range p.bases {
		if err == nil || !cerrdefs.IsNotFound(err) {
			break
		}
		info, err = from.Info(ctx, d)
	}
	return info, err
}
