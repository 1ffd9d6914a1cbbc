// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
)

// earlier is what an earlier conversion left under the target's tag.
type earlier struct {
	src   Source
	blobs map[v1.Hash]v1.Descriptor // source layer to blob, of equal options
}

// lookBack collects the layers that need no conversion. A target that does not
// exist yet has none; any other trouble is an error, not a reason to do it all again.
func (c *converter) lookBack(ctx context.Context) (*earlier, error) {
	if c.target.Existing == nil {
		return nil, nil
	}
	e := &earlier{src: c.target.Existing, blobs: map[v1.Hash]v1.Descriptor{}}
	root, err := e.src.Manifest(ctx, v1.Descriptor{})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	manifests, err := imagesBelow(ctx, e.src, root)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	for _, m := range manifests {
		im, err := parseManifest(m)
		if err != nil || !isFull(im) {
			continue
		}
		last := len(im.Layers) - 1
		for _, d := range im.Layers[:last] {
			from, err := v1.NewHash(d.Annotations[annSourceDigest])
			if err == nil && d.MediaType == mediaBlob && d.Annotations[annOptions] == c.o.fingerprint() {
				e.blobs[from] = d
			}
		}
	}
	return e, nil
}

// imagesBelow gives the image manifests that root is or lists; those gone missing are left out.
func imagesBelow(ctx context.Context, s Source, root Manifest) ([]Manifest, error) {
	if !root.MediaType.IsIndex() {
		return []Manifest{root}, nil
	}
	idx, err := parseIndex(root)
	if err != nil {
		return nil, err
	}
	var out []Manifest
	for _, d := range idx.Manifests {
		if !runnable(d) {
			continue
		}
		m, err := s.Manifest(ctx, plainDescriptor(d))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// reuse gives the earlier conversion of a source layer, nil when there is none.
// Its bootstrap is read from the end of the blob; the data is left where it is.
func (c *converter) reuse(ctx context.Context, e *earlier, source v1.Descriptor) (*layer, error) {
	if e == nil {
		return nil, nil
	}
	d, ok := e.blobs[source.Digest]
	if !ok {
		return nil, nil
	}
	blob, err := e.src.ReaderAt(ctx, d)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	bootstrap, meta, err := inlined(blob)
	if errors.Is(err, ErrNotFound) || errors.Is(err, format.ErrCorrupt) {
		return nil, nil // gone or damaged: made anew
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	l := &layer{source: source, how: PhaseReused, desc: c.blobDescriptor(d.Digest, d.Size, source.Digest)}
	return l, c.keep(l, bootstrap, meta)
}

// inlined reads a blob's own bootstrap and chunk table.
func inlined(blob Blob) (bootstrap, meta []byte, err error) {
	l, err := format.ReadLayerBlob(blob, blob.Size())
	if err != nil {
		return nil, nil, err
	}
	if bootstrap, err = l.Bootstrap(); err != nil {
		return nil, nil, err
	}
	meta, err = l.Meta()
	return bootstrap, meta, err
}
