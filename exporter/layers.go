// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	cerrdefs "github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/flightcontrol"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/progress"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"lighter/convert"
	"lighter/exporter/lazybase"
	"lighter/format"
)

// blobStore makes Nydus blobs of layers and keeps them with the cache records.
// It is safe for concurrent use.
type blobStore struct {
	content content.Store
	leases  leases.Manager
	cache   cache.Manager
	bases   *lazybase.Bases
	workDir string
	flight  flightcontrol.Group[*part]
	mu      sync.Mutex // changes of what records know
}

// part is a layer's Nydus blob, or all of an accelerated image that others are built on.
type part struct {
	convert.Part
	size int64
	base *lazybase.Image
}

// image gives the descriptors of an image: its layers' blobs and the bootstrap.
func (b *blobStore) image(ctx context.Context, r *ref, cfg cacheconfig.RefConfig, s session.Group) ([]ocispecs.Descriptor, error) {
	var chain cache.RefList
	if r.ImmutableRef != nil {
		if err := r.Finalize(ctx); err != nil {
			return nil, err
		}
		chain = r.ImmutableRef.LayerChain()
		defer chain.Release(context.WithoutCancel(ctx))
	}
	parts := make([]*part, len(chain))
	o, err := b.onBases(chain, parts, r.o)
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range chain {
		if parts[i] != nil {
			continue
		}
		g.Go(func() (err error) {
			parts[i], err = b.layer(gctx, i, l, r, o, cfg, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var descs []ocispecs.Descriptor
	for _, p := range parts {
		if p.base != nil {
			descs = append(descs, baseDescriptors(p.base)...)
			continue
		}
		descs = append(descs, ociDescriptor(convert.BlobDescriptor(p.Blob, p.size, o.build), digest.Digest(p.Blob.String())))
	}
	boot, err := b.bootstrap(ctx, parts, o)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return append(descs, boot), nil
}

// ociDescriptor carries the diff id where BuildKit looks for it.
func ociDescriptor(d v1.Descriptor, diffID digest.Digest) ocispecs.Descriptor {
	ann := map[string]string{labels.LabelUncompressed: diffID.String()}
	for k, v := range d.Annotations {
		ann[k] = v
	}
	return ocispecs.Descriptor{MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size, Annotations: ann}
}

// layer gives the Nydus blob of one layer of a chain, made at most once at a time.
func (b *blobStore) layer(ctx context.Context, i int, l cache.ImmutableRef, r *ref, o *options, cfg cacheconfig.RefConfig, s session.Group) (*part, error) {
	ordinary, err := ordinaryBlob(ctx, l, cfg, s)
	if err != nil {
		return nil, err
	}
	options := convert.Fingerprint(o.build)
	var to *clamp
	if r.clamp != nil && !r.clamp.keeps(i, descOf(ordinary)) {
		to = r.clamp
		options += fmt.Sprintf("/%d", to.epoch.Unix())
	}
	return b.flight.Do(ctx, l.ID()+" "+options, func(ctx context.Context) (*part, error) {
		if p, err := b.recall(ctx, l, options); p != nil || err != nil {
			return p, err
		}
		done := progress.OneOff(ctx, "converting layer "+l.ID()+" to nydus")
		p, err := b.make(ctx, l, ordinary, o, to, cfg, s)
		if err == nil {
			err = b.remember(ctx, l, options, p)
		}
		return p, done(err)
	})
}

// recall gives what an earlier build left with the record, nil if there is none.
func (b *blobStore) recall(ctx context.Context, l cache.ImmutableRef, options string) (*part, error) {
	k, ok := keptBlobs(l)[options]
	if !ok {
		return nil, nil
	}
	ra, err := b.content.ReaderAt(ctx, ocispecs.Descriptor{Digest: k.Digest, Size: k.Size})
	if cerrdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	id, err := v1.NewHash(k.Digest.String())
	if err != nil {
		return nil, nil
	}
	p, err := convert.ReadPart(id, ra)
	if errors.Is(err, format.ErrCorrupt) {
		return nil, nil // damaged: made anew
	}
	if err != nil {
		return nil, err
	}
	return &part{Part: p, size: k.Size}, nil
}

// remember makes the record's own lease hold the blob, and then tells the
// record of it: a crash between leaves a blob too many, never one too few.
func (b *blobStore) remember(ctx context.Context, l cache.ImmutableRef, options string, p *part) error {
	d := digest.Digest(p.Blob.String())
	err := b.leases.AddResource(ctx, leases.Lease{ID: l.ID()}, leases.Resource{ID: d.String(), Type: "content"})
	if err != nil {
		return fmt.Errorf("blob %s: lease of cache record %s: %w", d, l.ID(), err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return keep(l, options, keptBlob{d, p.size})
}

// make converts a layer: from its ordinary blob if it has one, else from its diff.
func (b *blobStore) make(ctx context.Context, l cache.ImmutableRef, ordinary *blobOf, o *options, to *clamp, cfg cacheconfig.RefConfig, s session.Group) (*part, error) {
	ctx, done, err := leaseutil.WithLease(ctx, b.leases, leaseutil.MakeTemporary)
	if err != nil {
		return nil, err
	}
	defer done(context.WithoutCancel(ctx))
	if ordinary == nil {
		d, err := b.diffOf(ctx, l, s)
		if err != nil {
			return nil, err
		}
		if d != nil {
			defer d.release()
			return b.fromDiff(ctx, d, o, to)
		}
		// Its blob is no diff of two mounts; BuildKit knows how to make it.
		if ordinary, err = createBlob(ctx, l, cfg, s); err != nil {
			return nil, err
		}
	}
	tar, err := ordinary.open(ctx, b.content)
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	return b.build(ctx, tar, o, to)
}

// build writes the Nydus blob of a layer's tar into the content store.
func (b *blobStore) build(ctx context.Context, tar io.Reader, o *options, to *clamp) (_ *part, err error) {
	name := "nydus-" + identity.NewID()
	w, err := content.OpenWriter(ctx, b.content, content.WithRef(name))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.content.Abort(context.WithoutCancel(ctx), name)
		}
		w.Close()
	}()
	tar, stop := to.reader(&contextReader{ctx, tar})
	defer stop()
	buf := bufio.NewWriterSize(w, 1<<20)
	built, err := format.BuildLayer(buf, tar, o.build)
	if err != nil {
		return nil, err
	}
	if err := buf.Flush(); err != nil {
		return nil, err
	}
	d := digest.NewDigestFromBytes(digest.SHA256, built.Digest[:])
	err = w.Commit(ctx, built.Size, d, content.WithLabels(map[string]string{labels.LabelUncompressed: d.String()}))
	if err != nil && !cerrdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	id := v1.Hash{Algorithm: "sha256", Hex: d.Encoded()}
	return &part{Part: convert.Part{Blob: id, Bootstrap: built.Bootstrap, Meta: built.Meta}, size: built.Size}, nil
}

// contextReader ends a long read with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// bootstrap merges the layers' bootstraps and stores the image's last layer.
func (b *blobStore) bootstrap(ctx context.Context, parts []*part, o *options) (ocispecs.Descriptor, error) {
	dir, err := os.MkdirTemp(b.workDir, "lighter-export-")
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	defer os.RemoveAll(dir)
	var in []convert.Part
	for _, p := range parts {
		in = append(in, p.Part)
	}
	if len(in) == 0 { // an image without layers is an empty root
		empty, err := format.BuildLayer(io.Discard, strings.NewReader(""), o.build)
		if err != nil {
			return ocispecs.Descriptor{}, err
		}
		in = append(in, convert.Part{Blob: v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", empty.Digest)}, Bootstrap: empty.Bootstrap})
	}
	packed, err := convert.PackParts(dir, in, o.repository(), o.prefetch)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	d := ociDescriptor(packed.Descriptor, digest.Digest(packed.DiffID.String()))
	f, err := os.Open(packed.File)
	if err != nil {
		return d, err
	}
	defer f.Close()
	return d, content.WriteBlob(ctx, b.content, "nydus-"+identity.NewID(), f, d, content.WithLabels(map[string]string{labels.LabelUncompressed: packed.DiffID.String()}))
}
