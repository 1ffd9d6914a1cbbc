// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// registrySource reads one repository of a registry.
type registrySource struct {
	ref     name.Reference
	options []remote.Option
	puller  *remote.Puller
	ranges  *rangeClient
}

func newRegistrySource(r Reference, o IOOptions) (*registrySource, error) {
	options := remoteOptions(o)
	puller, err := remote.NewPuller(options...)
	if err != nil {
		return nil, err
	}
	return &registrySource{r.Name, options, puller, newRangeClient(r.Name.Context(), o)}, nil
}

func remoteOptions(o IOOptions) []remote.Option {
	jobs := o.Jobs
	if jobs <= 0 {
		jobs = 4
	}
	return []remote.Option{
		remote.WithAuthFromKeychain(keychain(o)),
		remote.WithTransport(guardedTransport(o)),
		remote.WithUserAgent("lighter"),
		remote.WithJobs(jobs),
	}
}

func keychain(o IOOptions) authn.Keychain {
	if o.Keychain != nil {
		return o.Keychain
	}
	return authn.DefaultKeychain
}

func (s *registrySource) Manifest(ctx context.Context, d v1.Descriptor) (Manifest, error) {
	ref := s.ref
	if d.Digest != (v1.Hash{}) {
		ref = s.ref.Context().Digest(d.Digest.String())
	}
	got, err := s.puller.Get(ctx, ref)
	if err != nil {
		return Manifest{}, registryError(ref, err)
	}
	if d.Digest == (v1.Hash{}) {
		d = v1.Descriptor{Digest: got.Digest, MediaType: got.MediaType}
	}
	m, err := checkedManifest(got.Manifest, d)
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: %w", ref, err)
	}
	return m, nil
}

func (s *registrySource) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	r := &resumingReader{ctx: ctx, c: s.ranges, d: d}
	if err := r.reopen(); err != nil {
		return nil, err
	}
	return verified(r, d), nil
}

func (s *registrySource) ReaderAt(ctx context.Context, d v1.Descriptor) (Blob, error) {
	return s.ranges.blob(ctx, d)
}

func (s *registrySource) Close() error { return nil }

// registrySink writes one repository of a registry.
type registrySink struct {
	repo   name.Repository
	pusher *remote.Pusher
}

func newRegistrySink(r Reference, o IOOptions) (*registrySink, error) {
	p, err := remote.NewPusher(remoteOptions(o)...)
	if err != nil {
		return nil, err
	}
	return &registrySink{r.Name.Context(), p}, nil
}

func (s *registrySink) Put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) (bool, error) {
	l := &upload{d: d, open: open}
	var layer v1.Layer = l
	if from, ok := ctx.Value(mountFrom{}).(name.Repository); ok && from != s.repo && from.Registry.Name() == s.repo.Registry.Name() {
		layer = &remote.MountableLayer{Layer: l, Reference: from.Digest(d.Digest.String())}
	}
	if err := s.pusher.Upload(ctx, s.repo, layer); err != nil {
		return false, fmt.Errorf("%s: blob %s: %w", s.repo, d.Digest, err)
	}
	return l.opened, nil
}

// mountFrom is the context key of a repository whose blobs the target registry
// may take over without their crossing the network.
type mountFrom struct{}

// withMountFrom lets uploads made with the context ask for blobs of r's repository.
func withMountFrom(ctx context.Context, s Source) context.Context {
	if rs, ok := s.(*registrySource); ok {
		return context.WithValue(ctx, mountFrom{}, rs.ref.Context())
	}
	return ctx
}

func (s *registrySink) PutManifest(ctx context.Context, m Manifest, tags ...string) error {
	refs := []name.Reference{s.repo.Digest(m.Digest.String())}
	if len(tags) > 0 {
		refs = refs[:0]
	}
	for _, t := range tags {
		refs = append(refs, s.repo.Tag(t))
	}
	for _, ref := range refs {
		if err := s.pusher.Put(ctx, ref, rawManifest{m}); err != nil {
			return registryError(ref, err)
		}
	}
	return nil
}

func (s *registrySink) Commit(ctx context.Context) error { return ctx.Err() }

func (s *registrySink) Close() error { return nil }

// registryError makes a missing image ErrNotFound, and adds what to do about a refused login.
func registryError(ref name.Reference, err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		switch te.StatusCode {
		case http.StatusNotFound:
			return fmt.Errorf("%s: %w (%v)", ref, ErrNotFound, err)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%s: %w (hint: docker login %s)", ref, err, ref.Context().RegistryStr())
		}
	}
	return fmt.Errorf("%s: %w", ref, err)
}
