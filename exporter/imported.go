// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	cerrdefs "github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/progress"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/convert"
	"lighter/format"
)

// chainKey is the index by which records that were made of Nydus blobs are
// found: the digests of the blobs from the lowest up to the record's own.
const chainKey = "lighter.chain"

// FromRemote gives the layers of a cache that another build exported. Those
// that are Nydus blobs, as an inline cache names them, are unpacked into cache
// records like those of build steps: the records have no ordinary blob, and know
// their Nydus blob. So neither kind of output finds blobs of the other.
func (w *Worker) FromRemote(ctx context.Context, remote *solver.Remote) (cache.ImmutableRef, error) {
	if !slices.ContainsFunc(remote.Descriptors, isNydus) {
		return w.Worker.FromRemote(ctx, remote)
	}
	ctx, done, err := leaseutil.WithLease(ctx, w.blobs.leases, leaseutil.MakeTemporary)
	if err != nil {
		return nil, err
	}
	defer done(context.WithoutCancel(ctx))
	var current cache.ImmutableRef
	var chain digest.Digest
	for _, d := range remote.Descriptors {
		chain = digest.FromString(chain.String() + " " + d.Digest.String())
		next, err := w.imported(ctx, chain, d, current, remote.Provider)
		if current != nil {
			current.Release(context.WithoutCancel(ctx))
		}
		if err != nil {
			return nil, fmt.Errorf("cached layer %s: %w", d.Digest, err)
		}
		current = next
	}
	return current, nil
}

// imported gives the record of a layer over parent, made unless there is one.
func (w *Worker) imported(ctx context.Context, chain digest.Digest, d ocispecs.Descriptor, parent cache.ImmutableRef, p content.Provider) (cache.ImmutableRef, error) {
	known, err := w.blobs.cache.Search(ctx, chainKey+":"+chain.String(), false)
	if err != nil {
		return nil, err
	}
	for _, md := range known {
		if r, err := w.blobs.cache.Get(ctx, md.ID(), nil); err == nil {
			return r, nil
		}
	}
	finish := progress.OneOff(ctx, "unpacking cached layer "+d.Digest.String())
	r, err := w.unpack(ctx, d, parent, p)
	if err == nil {
		if err = r.SetString(chainKey, chain.String(), chainKey+":"+chain.String()); err != nil {
			r.Release(context.WithoutCancel(ctx))
		}
	}
	return r, finish(err)
}

// unpack makes a record of a layer's files over parent.
func (w *Worker) unpack(ctx context.Context, d ocispecs.Descriptor, parent cache.ImmutableRef, p content.Provider) (_ cache.ImmutableRef, err error) {
	tar, nydus, err := w.layerTar(ctx, d, p)
	if err != nil {
		return nil, err
	}
	m, err := w.blobs.cache.New(ctx, parent, nil, createdAs(d)...)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && m != nil {
			m.Release(context.WithoutCancel(ctx))
		}
	}()
	mountable, err := m.Mount(ctx, false, nil)
	if err != nil {
		return nil, err
	}
	mounts, release, err := mountable.Mount()
	if err != nil {
		return nil, err
	}
	_, err = w.Applier.Apply(ctx, tar, mounts)
	if release != nil {
		err = errors.Join(err, release())
	}
	if err != nil {
		return nil, err
	}
	r, err := m.Commit(ctx)
	if err != nil {
		return nil, err
	}
	m = nil
	err = r.Finalize(ctx)
	if options := convert.BlobOptions(d.Annotations); err == nil && nydus != nil && options != "" {
		err = w.blobs.remember(ctx, r, options, nydus)
	}
	if err != nil {
		r.Release(context.WithoutCancel(ctx))
	}
	return r, err
}

func isNydus(d ocispecs.Descriptor) bool { return convert.IsBlob(d.MediaType) }

// createdAs gives a record the description and the date that its layer had in
// the build that exported it.
func createdAs(d ocispecs.Descriptor) []cache.RefOption {
	description := d.Annotations["buildkit/description"]
	if description == "" {
		description = "imported " + d.Digest.String()
	}
	opts := []cache.RefOption{cache.CachePolicyRetain, cache.WithDescription(description)}
	var at time.Time
	if at.UnmarshalText([]byte(d.Annotations["buildkit/createdat"])) == nil {
		opts = append(opts, cache.WithCreationTime(at))
	}
	return opts
}

// layerTar stores a layer as uncompressed tar, for as long as the lease of ctx
// lasts, and also its Nydus blob if it is one.
func (w *Worker) layerTar(ctx context.Context, d ocispecs.Descriptor, p content.Provider) (ocispecs.Descriptor, *part, error) {
	if !isNydus(d) {
		from, err := compression.FromMediaType(d.MediaType)
		if err != nil {
			return ocispecs.Descriptor{}, nil, err
		}
		r, err := from.Decompress(ctx, contentutil.NewStoreWithProvider(w.blobs.content, p), d)
		if err != nil {
			return ocispecs.Descriptor{}, nil, err
		}
		defer r.Close()
		tar, err := w.storeTar(ctx, func(out io.Writer) error { _, err := io.Copy(out, &contextReader{ctx, r}); return err })
		return tar, nil, err
	}
	if err := contentutil.Copy(ctx, w.blobs.content, p, d, "", nil); err != nil {
		return ocispecs.Descriptor{}, nil, err
	}
	ra, err := w.blobs.content.ReaderAt(ctx, d)
	if err != nil {
		return ocispecs.Descriptor{}, nil, err
	}
	defer ra.Close()
	id, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return ocispecs.Descriptor{}, nil, err
	}
	nydus, err := convert.ReadPart(id, ra)
	if err != nil {
		return ocispecs.Descriptor{}, nil, err
	}
	boot, err := format.OpenBytes(nydus.Bootstrap)
	if err != nil {
		return ocispecs.Descriptor{}, nil, err
	}
	tar, err := w.storeTar(ctx, func(out io.Writer) error {
		return format.WriteLayerTar(out, boot, func(format.Blob) (io.ReaderAt, int64, error) { return unclosed{ra}, ra.Size(), nil })
	})
	return tar, &part{Part: nydus, size: ra.Size()}, err
}

// unclosed keeps a reader open that others use as well.
type unclosed struct{ io.ReaderAt }

func (w *Worker) storeTar(ctx context.Context, write func(io.Writer) error) (d ocispecs.Descriptor, err error) {
	name := "nydus-tar-" + identity.NewID()
	cw, err := content.OpenWriter(ctx, w.blobs.content, content.WithRef(name))
	if err != nil {
		return d, err
	}
	defer func() {
		if err != nil {
			w.blobs.content.Abort(context.WithoutCancel(ctx), name)
		}
		cw.Close()
	}()
	if err = write(cw); err != nil {
		return d, err
	}
	st, err := cw.Status()
	if err != nil {
		return d, err
	}
	d = ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: cw.Digest(), Size: st.Offset}
	if err = cw.Commit(ctx, d.Size, d.Digest); cerrdefs.IsAlreadyExists(err) {
		err = nil
	}
	return d, err
}
