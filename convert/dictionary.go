// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
)

// Dictionary is a chunk dictionary, and where its blobs are found: an image
// that uses them lists them, so they are copied to the target.
type Dictionary struct {
	Chunks *format.ChunkDict
	// Blob opens a blob of the dictionary by its id. ErrNotFound: it is expected
	// to be at the target.
	Blob func(ctx context.Context, id string) (Blob, error)
}

// dictLayers gives the layers of the blobs that the image has from the
// dictionary, and puts those blobs.
func (c *converter) dictLayers(ctx context.Context, ids []string, layers []*layer) ([]*layer, error) {
	own := map[string]bool{}
	for _, l := range layers {
		own[l.desc.Digest.Hex] = true
		if c.o.OCIRef {
			own[l.source.Digest.Hex] = true
		}
	}
	var out []*layer
	for _, id := range ids {
		if own[id] {
			continue
		}
		if c.o.Dictionary == nil {
			return nil, fmt.Errorf("blob %s: is of no layer of the image", id)
		}
		l, err := c.dictLayer(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("chunk dictionary: blob %s: %w", id, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func (c *converter) dictLayer(ctx context.Context, id string) (*layer, error) {
	blob, err := c.o.Dictionary.Blob(ctx, id)
	if errors.Is(err, ErrNotFound) && c.target.Existing != nil {
		blob, err = BlobByID(ctx, c.target.Existing, id)
	}
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	d := v1.Descriptor{
		MediaType: mediaBlob, Digest: v1.Hash{Algorithm: "sha256", Hex: id}, Size: blob.Size(),
		Annotations: map[string]string{annBlob: "true"},
	}
	open := func() (io.ReadCloser, error) {
		return verified(io.NopCloser(io.NewSectionReader(blob, 0, blob.Size())), d), nil
	}
	if _, err := c.sink.Put(ctx, d, open); err != nil {
		return nil, err
	}
	return &layer{desc: d, how: PhaseShared}, nil
}
