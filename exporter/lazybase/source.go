// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/util/imageutil"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker/base"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/convert"
)

// Attach gives a worker image sources that know accelerated images. The
// worker's snapshotter must be one of Snapshotter's.
func (b *Bases) Attach(w *base.Worker) error {
	b.cache, b.leases = w.CacheMgr, w.LeaseManager()
	opt := containerimage.SourceOpt{
		Snapshotter: w.Snapshotter, ContentStore: &hiding{Store: w.ContentStore()}, Applier: w.Applier, ImageStore: w.ImageStore,
		CacheAccessor: &accessor{w.CacheMgr, b}, RegistryHosts: w.RegistryHosts, LeaseManager: w.LeaseManager(),
	}
	opt.ResolverType = containerimage.ResolverTypeRegistry
	registry, err := containerimage.NewSource(opt)
	if err != nil {
		return err
	}
	opt.ResolverType, opt.RegistryHosts = containerimage.ResolverTypeOCILayout, nil
	layout, err := containerimage.NewSource(opt)
	if err != nil {
		return err
	}
	w.ImageSource, w.OCILayoutSource = registry, layout
	w.SourceManager.Register(&registrySource{registry, b})
	w.SourceManager.Register(layout)
	return nil
}

// registrySource is BuildKit's source of images in registries, whose pulls
// know their session and reference.
type registrySource struct {
	*containerimage.Source
	b *Bases
}

func (s *registrySource) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, v solver.Vertex) (source.SourceInstance, error) {
	in, err := s.Source.Resolve(ctx, id, sm, v)
	if err != nil {
		return nil, err
	}
	im, ok := id.(*containerimage.ImageIdentifier)
	if !ok {
		return in, nil
	}
	p := platforms.DefaultSpec()
	if im.Platform != nil {
		p = *im.Platform
	}
	return &instance{SourceInstance: in, b: s.b, ref: im.Reference.String(), platform: platforms.Only(p)}, nil
}

// instance is one image in one build.
type instance struct {
	source.SourceInstance
	b        *Bases
	ref      string
	platform platforms.MatchComparer
	root     string // digest of what ref names
}

func groupOf(j solver.JobContext) session.Group {
	if j == nil {
		return nil
	}
	return j.Session()
}

func (i *instance) CacheKey(ctx context.Context, j solver.JobContext, index int) (string, string, solver.CacheOpts, bool, error) {
	i.b.sessions.note(repositoryOf(i.ref), groupOf(j))
	key, root, opts, done, err := i.SourceInstance.CacheKey(ctx, j, index)
	i.root = root
	return key, root, opts, done, err
}

func (i *instance) Snapshot(ctx context.Context, j solver.JobContext) (cache.ImmutableRef, error) {
	g := groupOf(j)
	i.b.sessions.note(repositoryOf(i.ref), g)
	p := &pull{group: g, ref: i.ref, find: func(ctx context.Context) (*found, error) {
		return i.b.manifests(ctx, i.ref, digest.Digest(i.root), i.platform, g)
	}}
	ref, err := i.SourceInstance.Snapshot(context.WithValue(ctx, pullKey{}, p), j)
	if b, ok := ref.(*blobRef); ok {
		return nil, fmt.Errorf("image %s: its %d lowest layers are data blobs, which mean nothing without the bootstrap", i.ref, len(b.blobs))
	}
	return ref, err
}

// hiding is a content store in which data blobs seem to be, so that resolving
// an image does not fetch them.
type hiding struct {
	content.Store
	known digestSet
}

func (h *hiding) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if convert.IsBlob(o.Desc.MediaType) {
		h.known.add(o.Desc)
		return nil, fmt.Errorf("data blob %s stays where it is: %w", o.Desc.Digest, errAlreadyExists)
	}
	return h.Store.Writer(ctx, opts...)
}

func (h *hiding) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	info, err := h.Store.Info(ctx, d)
	if size, ok := h.known.size(d); err != nil && ok {
		return content.Info{Digest: d, Size: size}, nil
	}
	return info, err
}

func (h *hiding) Update(ctx context.Context, info content.Info, fields ...string) (content.Info, error) {
	out, err := h.Store.Update(ctx, info, fields...)
	if _, ok := h.known.size(info.Digest); err != nil && ok {
		return info, nil
	}
	return out, err
}

// found is an accelerated image's manifests.
type found struct {
	full   ocispecs.Manifest // what lists the data blobs
	config []byte            // of full
	read   []digest.Digest   // what was read besides what resolving reads
}

func (f *found) blobs() (out []ocispecs.Descriptor) {
	for _, d := range f.full.Layers {
		if convert.IsBlob(d.MediaType) {
			out = append(out, d)
		}
	}
	return out
}

// manifests reads the manifests of an image that was resolved before; nil: it
// is an ordinary one. A full manifest that is not at hand is fetched.
func (b *Bases) manifests(ctx context.Context, ref string, root digest.Digest, p platforms.MatchComparer, g session.Group) (*found, error) {
	desc, err := b.descriptor(ctx, root)
	if err != nil {
		return nil, err
	}
	f := &found{}
	if f.full, err = images.Manifest(ctx, b.o.Content, desc, p); err != nil {
		return nil, err
	}
	boot := slices.IndexFunc(f.full.Layers, func(d ocispecs.Descriptor) bool { return convert.IsBootstrap(d.Annotations) })
	if boot < 0 {
		return nil, nil
	}
	if above := f.full.Layers[boot+1:]; len(above) > 0 {
		return nil, fmt.Errorf("layer %s lies over an accelerated image: such an image cannot be built on; convert it anew", above[0].Digest)
	}
	ctx, done, err := leaseutil.WithLease(ctx, b.leases, leases.WithExpiration(metadataLife), leaseutil.MakeTemporary)
	if err != nil {
		return nil, err
	}
	imageutil.AddLease(done) // as for what BuildKit itself resolves
	if d := convert.FullDigest(f.full.Annotations); d != "" {
		raw, err := b.fetch(ctx, ref, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.Digest(d)}, g)
		if cerrdefs.IsNotFound(err) {
			err = fmt.Errorf("%w: the image was copied without its data: use `skopeo copy --all`, `crane copy` or `lighter copy`", err)
		}
		if err != nil {
			return nil, fmt.Errorf("full manifest: %w", err)
		}
		f.full = ocispecs.Manifest{}
		if err := json.Unmarshal(raw, &f.full); err != nil {
			return nil, fmt.Errorf("full manifest %s: %w", d, err)
		}
		f.read = append(f.read, digest.Digest(d), f.full.Config.Digest)
	}
	if f.config, err = b.fetch(ctx, ref, f.full.Config, g); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return f, nil
}

// descriptor completes the digest of a manifest or index that was resolved.
func (b *Bases) descriptor(ctx context.Context, d digest.Digest) (ocispecs.Descriptor, error) {
	desc := ocispecs.Descriptor{Digest: d}
	ra, err := b.o.Content.ReaderAt(ctx, desc)
	if err != nil {
		return desc, err
	}
	defer ra.Close()
	desc.Size = ra.Size()
	desc.MediaType, err = imageutil.DetectManifestMediaType(ra)
	return desc, err
}

// metadataLife is how long fetched metadata stays that nothing refers to.
const metadataLife = 5 * time.Minute

// mostMetadata bounds what is read into memory, in bytes.
const mostMetadata = 16 << 20

// fetch reads a small blob or manifest, from the content store if it is there.
// It stays there as long as other metadata of a resolved image.
func (b *Bases) fetch(ctx context.Context, ref string, d ocispecs.Descriptor, g session.Group) ([]byte, error) {
	if raw, err := content.ReadBlob(ctx, b.o.Content, d); err == nil {
		return raw, nil
	}
	f, err := resolver.DefaultPool.GetResolver(b.o.Hosts, ref, resolver.ScopeType{}, b.o.Sessions, g).Fetcher(ctx, ref)
	if err != nil {
		return nil, err
	}
	asked := d
	if asked.Size == 0 {
		asked.Size = -1 // unknown
	}
	rc, err := f.Fetch(ctx, asked)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw, err := readLimited(rc, mostMetadata)
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(raw); got != d.Digest {
		return nil, fmt.Errorf("%s: %w: it has %s", d.Digest, convert.ErrDigest, got)
	}
	d.Size = int64(len(raw))
	return raw, content.WriteBlob(ctx, b.o.Content, "lighter-"+d.Digest.String(), bytes.NewReader(raw), d)
}

// Config gives the config to build on: that of the full manifest, which knows
// the history, without the bootstrap. An ordinary image's config is given back.
func (b *Bases) Config(ctx context.Context, ref string, root digest.Digest, p *ocispecs.Platform, config []byte, g session.Group) ([]byte, error) {
	b.sessions.note(repositoryOf(ref), g)
	match := platforms.Default()
	if p != nil {
		match = platforms.Only(*p)
	}
	m, err := b.manifests(ctx, ref, root, match, g)
	if err != nil || m == nil {
		return config, err
	}
	return convert.DataConfig(m.config)
}
