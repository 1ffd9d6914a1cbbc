// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// referrers is a Source that knows which manifests have another one for their
// subject, like signatures and bills of materials (OCI Image Spec, "subject").
type referrers interface {
	// Referrers gives the manifests whose subject has the digest.
	Referrers(ctx context.Context, subject v1.Hash) ([]v1.Descriptor, error)
}

// Referrers asks the registry, or reads the tag that stands in for the answer of those that don't know.
func (s *registrySource) Referrers(ctx context.Context, subject v1.Hash) ([]v1.Descriptor, error) {
	ref := s.ref.Context().Digest(subject.String())
	idx, err := remote.Referrers(ref, append(s.options, remote.WithContext(ctx), remote.Reuse(s.puller))...)
	if err != nil {
		return nil, registryError(ref, err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("%s: referrers: %w", ref, err)
	}
	return m.Manifests, nil
}

// Referrers reads the manifests that index.json lists.
func (l *layoutSource) Referrers(ctx context.Context, subject v1.Hash) ([]v1.Descriptor, error) {
	var out []v1.Descriptor
	for _, d := range l.index.Manifests {
		m, err := l.Manifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if s, _ := subjectOf(m); s == subject {
			out = append(out, m.Descriptor())
		}
	}
	return out, nil
}

// subjectOf returns the digest of m's subject, zero if it has none, and m's artifact type.
func subjectOf(m Manifest) (v1.Hash, string) {
	var f struct {
		Subject      *v1.Descriptor `json:"subject"`
		ArtifactType string         `json:"artifactType"`
		Config       v1.Descriptor  `json:"config"`
	}
	if json.Unmarshal(m.Raw, &f) != nil || f.Subject == nil {
		return v1.Hash{}, ""
	}
	if f.ArtifactType == "" {
		f.ArtifactType = string(f.Config.MediaType)
	}
	return f.Subject.Digest, f.ArtifactType
}

// maxReferrers bounds what a source can make a copy follow.
const maxReferrers = 1000

// collectReferrers lists what refers to the collected manifests, and what refers to that.
func (c *copier) collectReferrers(ctx context.Context, order *[]tagged) error {
	src, ok := c.src.(referrers)
	if !ok {
		return nil
	}
	known := map[v1.Hash]bool{}
	for _, m := range *order {
		known[m.Digest] = true
	}
	for i := 0; i < len(*order); i++ { // grows
		subject := (*order)[i].Digest
		ds, err := src.Referrers(ctx, subject)
		if err != nil {
			return err
		}
		for _, d := range ds {
			if known[d.Digest] {
				continue
			}
			known[d.Digest] = true
			if c.res.Referrers++; c.res.Referrers > maxReferrers {
				return fmt.Errorf("more than %d referrers", maxReferrers)
			}
			m, err := c.src.Manifest(ctx, plainDescriptor(d))
			if err != nil {
				return fmt.Errorf("referrer of %s: %w", subject, err)
			}
			if err := c.collect(ctx, m, nil, 0, order); err != nil {
				return fmt.Errorf("referrer of %s: %w", subject, err)
			}
		}
	}
	return nil
}
