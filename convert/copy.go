// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// CopyOptions of a copy. The zero value is ready.
type CopyOptions struct {
	Jobs     int // blobs at a time; 0: 4
	Progress Progress
}

// CopyResult tells what a copy moved.
type CopyResult struct {
	Digest    v1.Hash `json:"digest"`
	Manifests int     `json:"manifests"`
	Referrers int     `json:"referrers"` // of the manifests
	Blobs     int     `json:"blobs"`     // listed, each counted once
	Stored    int     `json:"stored"`    // of these, not there before
	Bytes     int64   `json:"bytes"`     // of the stored ones
}

// Copy copies an image whole: an index with all its manifests and their blobs,
// byte for byte, so that digests stay, and what refers to them. The two children of an index made by
// Convert get their tags as well. Copy commits the sink but does not close it.
func Copy(ctx context.Context, src Source, sink Sink, tag string, o CopyOptions) (*CopyResult, error) {
	root, err := src.Manifest(ctx, v1.Descriptor{})
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	res, err := copyTree(withMountFrom(ctx, src), src, sink, root, o, tag)
	if err != nil {
		return nil, err
	}
	return res, sink.Commit(ctx)
}

type copier struct {
	src  Source
	sink Sink
	o    CopyOptions
	g    *errgroup.Group

	mu   sync.Mutex
	res  CopyResult
	seen map[v1.Hash]bool
}

// copyTree copies all blobs first, then the manifests from the leaves up, the tagged root last.
func copyTree(ctx context.Context, src Source, sink Sink, root Manifest, o CopyOptions, tag string) (*CopyResult, error) {
	if o.Jobs <= 0 {
		o.Jobs = 4
	}
	c := &copier{src: src, sink: sink, o: o, res: CopyResult{Digest: root.Digest}, seen: map[v1.Hash]bool{}}
	var order []tagged
	if err := c.collect(ctx, root, []string{tag}, 0, &order); err != nil {
		return nil, err
	}
	if err := c.collectReferrers(ctx, &order); err != nil {
		return nil, err
	}
	var gctx context.Context
	c.g, gctx = errgroup.WithContext(ctx)
	c.g.SetLimit(o.Jobs)
	for _, m := range order {
		for _, d := range m.blobs {
			c.blob(gctx, d)
		}
	}
	if err := c.g.Wait(); err != nil {
		return nil, err
	}
	for _, m := range order {
		if err := sink.PutManifest(ctx, m.Manifest, m.tags...); err != nil {
			return nil, err
		}
		c.res.Manifests++
	}
	return &c.res, nil
}

// tagged is a manifest to put, after all that it lists.
type tagged struct {
	Manifest
	tags  []string
	blobs []v1.Descriptor
}

// maxDepth bounds indexes within indexes.
const maxDepth = 4

// collect lists m and all below it, children first.
func (c *copier) collect(ctx context.Context, m Manifest, tags []string, depth int, out *[]tagged) error {
	if depth > maxDepth {
		return fmt.Errorf("index %s: nested more than %d deep", m.Digest, maxDepth)
	}
	t := tagged{Manifest: m, tags: tags}
	if !m.MediaType.IsIndex() {
		im, err := parseManifest(m)
		if err != nil {
			return err
		}
		t.blobs = append([]v1.Descriptor{im.Config}, im.Layers...)
		refs, err := c.referenced(ctx, im)
		if err != nil {
			return err
		}
		t.blobs = append(t.blobs, refs...)
		if err := c.collectKept(ctx, im, tags, depth, out); err != nil {
			return err
		}
		*out = append(*out, t)
		return nil
	}
	idx, err := parseIndex(m)
	if err != nil {
		return err
	}
	kids := make([]Manifest, len(idx.Manifests))
	for i, d := range idx.Manifests {
		if kids[i], err = c.src.Manifest(ctx, plainDescriptor(d)); err != nil {
			return err
		}
	}
	names := tagsOfChildren(idx, kids, tags)
	for i, k := range kids {
		if err := c.collect(ctx, k, names[i], depth+1, out); err != nil {
			return err
		}
	}
	*out = append(*out, t)
	return nil
}

// collectKept lists the manifest with an image's kept tar data, if it is there.
func (c *copier) collectKept(ctx context.Context, im v1.Manifest, tags []string, depth int, out *[]tagged) error {
	at, err := v1.NewHash(im.Annotations[annKept])
	if err != nil || !isFull(im) {
		return nil
	}
	k, err := c.src.Manifest(ctx, v1.Descriptor{Digest: at})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var names []string
	if len(tags) > 0 {
		names = []string{keptTag(tags[0])}
	}
	return c.collect(ctx, k, names, depth+1, out)
}

// referenced gives the layers of another image that hold m's data (OCI-ref
// images); no manifest that comes along lists them.
func (c *copier) referenced(ctx context.Context, m v1.Manifest) ([]v1.Descriptor, error) {
	var out []v1.Descriptor
	for _, l := range m.Layers {
		h, err := v1.NewHash(l.Annotations[annRef])
		if err != nil {
			continue
		}
		b, err := c.src.ReaderAt(ctx, v1.Descriptor{Digest: h})
		if err != nil {
			return nil, fmt.Errorf("data of layer %s: %w", l.Digest, err)
		}
		out = append(out, v1.Descriptor{MediaType: types.OCILayer, Digest: h, Size: b.Size()})
		b.Close()
	}
	return out, nil
}

// tagsOfChildren finds the tags of an index made by Convert; other indexes' children have none.
func tagsOfChildren(idx v1.IndexManifest, kids []Manifest, tags []string) [][]string {
	out := make([][]string, len(kids))
	if len(tags) == 0 {
		return out
	}
	boots := 0
	for _, k := range kids {
		if im, err := parseManifest(k); err == nil && im.Annotations[annRole] == roleBootstrap {
			boots++
		}
	}
	if boots == 0 {
		return out
	}
	for i, k := range kids {
		im, err := parseManifest(k)
		p := idx.Manifests[i].Platform
		if err != nil || p == nil || !k.MediaType.IsImage() {
			continue
		}
		bare := *p
		bare.OSFeatures = nil
		boot, data, src := childTags(tags[0], bare, boots > 1)
		switch {
		case im.Annotations[annRole] == roleBootstrap:
			out[i] = []string{boot}
		case isNydus(im):
			out[i] = []string{data}
		default:
			out[i] = []string{src}
		}
	}
	return out
}

// foreign says whether a layer lies elsewhere by its manifest's own word, so
// that registries neither hold nor take it.
func foreign(d v1.Descriptor) bool {
	switch d.MediaType {
	case types.DockerForeignLayer, types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer:
		return len(d.URLs) > 0
	}
	return false
}

func (c *copier) blob(ctx context.Context, d v1.Descriptor) {
	if c.seen[d.Digest] || foreign(d) {
		return
	}
	c.seen[d.Digest] = true
	c.res.Blobs++
	c.g.Go(func() error {
		e := Event{Phase: PhaseCopy, Layer: d.Digest.String(), Total: d.Size}
		stored, err := c.sink.Put(ctx, d, func() (io.ReadCloser, error) {
			r, err := c.src.Open(ctx, d)
			if err != nil {
				return nil, err
			}
			return &contextReader{ctx, &countingReader{r: r, p: c.o.Progress, e: e}, r}, nil
		})
		if err != nil {
			return err
		}
		c.o.Progress.send(Event{Phase: PhaseDone, Layer: d.Digest.String(), Done: d.Size, Total: d.Size})
		if stored {
			c.mu.Lock()
			c.res.Stored++
			c.res.Bytes += d.Size
			c.mu.Unlock()
		}
		return nil
	})
}
