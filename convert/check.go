// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// CheckOptions of a check. The zero value checks everything.
type CheckOptions struct {
	MetadataOnly bool         // leave the data blobs' bytes unread
	Platform     *v1.Platform // nil: all
	WorkDir      string       // for bootstraps; "": the system's temporary directory
	Progress     Progress
}

// CheckReport tells what was checked and what was wrong.
type CheckReport struct {
	Images   []CheckedImage `json:"images"`
	Blobs    int            `json:"blobs"`    // whose bytes fit their digests
	Bytes    int64          `json:"bytes"`    // of these
	Problems []string       `json:"problems"` // none: all is well
	Against  *Against       `json:"against,omitempty"`
}

// CheckedImage is one image manifest of a CheckReport.
type CheckedImage struct {
	Name     string    `json:"name,omitempty"` // its tag in a layout
	Manifest v1.Hash   `json:"manifest"`
	Kind     ImageKind `json:"kind"`
	Platform string    `json:"platform,omitempty"`
	Inodes   uint64    `json:"inodes,omitempty"`
	Chunks   uint64    `json:"chunks,omitempty"` // whose digests were recomputed
}

// maxProblems bounds a report; a broken image rarely has one problem only.
const maxProblems = 100

// Check verifies everything that a reference leads to: each manifest and blob
// by digest and size, configs against layers, and of Nydus images every
// structure of all bootstraps and chunk tables and the digest of every chunk.
// A layout named without a tag is checked whole, files that nothing lists
// included. What is wrong is in the report; an error means that the check
// itself could not go on.
func Check(ctx context.Context, s Source, o CheckOptions) (*CheckReport, error) {
	c := &checker{src: s, o: o, blobs: map[v1.Hash]bool{}, manifests: map[v1.Hash]bool{}, boots: map[v1.Hash]bool{}}
	var err error
	if c.work, err = os.MkdirTemp(o.WorkDir, "lighter-check-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(c.work)
	if l, ok := s.(*layoutSource); ok {
		err = c.layout(ctx, l)
	} else {
		err = c.root(ctx, v1.Descriptor{}, "")
	}
	if err != nil {
		return nil, err
	}
	return &c.report, nil
}

type checker struct {
	src       Source
	o         CheckOptions
	work      string
	report    CheckReport
	blobs     map[v1.Hash]bool // checked, by digest
	manifests map[v1.Hash]bool
	boots     map[v1.Hash]bool // bootstrap layers whose images' data is checked
}

var errTooMany = fmt.Errorf("gave up after %d problems", maxProblems)

// problem notes what is wrong. What ends the whole check comes back as an
// error: cancellation, and more problems than anyone reads.
func (c *checker) problem(ctx context.Context, where string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if where != "" {
		err = fmt.Errorf("%s: %w", where, err)
	}
	c.report.Problems = append(c.report.Problems, err.Error())
	if len(c.report.Problems) >= maxProblems {
		return errTooMany
	}
	return nil
}

func (c *checker) root(ctx context.Context, d v1.Descriptor, name string) error {
	m, err := c.src.Manifest(ctx, d)
	if err != nil {
		if d.Digest == (v1.Hash{}) {
			return err // there is no such image
		}
		return c.problem(ctx, name, err)
	}
	return c.manifest(ctx, m, name, 0)
}

// manifest checks a manifest and all below it. Full Nydus manifests come before
// those with the bootstrap alone, which then need no second look at the data.
func (c *checker) manifest(ctx context.Context, m Manifest, name string, depth int) error {
	if c.manifests[m.Digest] {
		return nil
	}
	c.manifests[m.Digest] = true
	if !m.MediaType.IsIndex() {
		return c.image(ctx, m, name)
	}
	idx, err := parseIndex(m)
	if err != nil {
		return c.problem(ctx, name, err)
	}
	if depth == maxDepth {
		return c.problem(ctx, name, fmt.Errorf("index %s: nested more than %d deep", m.Digest, maxDepth))
	}
	var first, rest []Manifest
	for _, d := range idx.Manifests {
		if c.o.Platform != nil && d.Platform != nil && !matches(*d.Platform, *c.o.Platform) {
			continue
		}
		k, err := c.src.Manifest(ctx, plainDescriptor(d))
		if err != nil {
			if err := c.problem(ctx, name, fmt.Errorf("index %s: %w", m.Digest, err)); err != nil {
				return err
			}
			continue
		}
		if im, err := parseManifest(k); err == nil && isFull(im) {
			first = append(first, k)
		} else {
			rest = append(rest, k)
		}
	}
	for _, k := range append(first, rest...) {
		if err := c.manifest(ctx, k, name, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// image checks one image manifest, its config and its layers.
func (c *checker) image(ctx context.Context, m Manifest, name string) error {
	where := fmt.Sprintf("manifest %s", m.Digest)
	im, err := parseManifest(m)
	if err != nil {
		return c.problem(ctx, name, err)
	}
	done := CheckedImage{Name: name, Manifest: m.Digest, Kind: kindOf(im)}
	var config struct {
		v1.Platform
		RootFS rootFS `json:"rootfs"`
	}
	raw, err := readAll(ctx, c.src, im.Config)
	if err == nil {
		c.count(im.Config)
		err = json.Unmarshal(raw, &config)
	}
	if err == nil && im.Config.MediaType.IsConfig() && len(config.RootFS.DiffIDs) != len(im.Layers) {
		err = fmt.Errorf("%d diff ids for %d layers", len(config.RootFS.DiffIDs), len(im.Layers))
	}
	if err != nil {
		if err := c.problem(ctx, where+": config", err); err != nil {
			return err
		}
	}
	done.Platform = config.Platform.String()
	for i, d := range im.Layers {
		var id v1.Hash
		if i < len(config.RootFS.DiffIDs) {
			id = config.RootFS.DiffIDs[i]
		}
		if err := c.problem(ctx, where, c.layer(ctx, d, id)); err != nil {
			return err
		}
	}
	if done.Kind == KindNydus || done.Kind == KindBoot {
		if err := c.nydus(ctx, m, im, &done); err != nil {
			return err
		}
	}
	c.report.Images = append(c.report.Images, done)
	return nil
}

func (c *checker) count(d v1.Descriptor) {
	if !c.blobs[d.Digest] {
		c.blobs[d.Digest] = true
		c.report.Blobs++
		c.report.Bytes += d.Size
	}
}

// layer compares a layer's bytes with its digest and its content with the diff id.
func (c *checker) layer(ctx context.Context, d v1.Descriptor, diffID v1.Hash) error {
	if d.MediaType == mediaBlob && diffID != (v1.Hash{}) && diffID != d.Digest {
		return fmt.Errorf("blob %s: its diff id %s is not its digest", d.Digest, diffID)
	}
	if c.blobs[d.Digest] || foreign(d) || c.o.MetadataOnly && !isBootstrapLayer(d) {
		return nil
	}
	r, err := c.src.Open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	e := Event{Phase: PhaseCheck, Layer: d.Digest.String(), Total: d.Size}
	in := &countingReader{r: &contextReader{ctx, r, r}, p: c.o.Progress, e: e}
	if tarLayer(d) == nil && diffID != (v1.Hash{}) {
		err = checkDiffID(in, diffID)
	}
	if _, cerr := io.Copy(io.Discard, in); cerr != nil {
		err = cerr // a wrong digest explains all else
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	c.count(d)
	return nil
}

func checkDiffID(r io.Reader, want v1.Hash) error {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	got, _, err := v1.SHA256(plain)
	if err == nil && got != want {
		err = fmt.Errorf("%w: the config's diff id is %s, its content has %s", ErrDigest, want, got)
	}
	return err
}
