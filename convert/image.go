// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
)

// ErrOrdinary is wrapped by errors about images that are not accelerated.
var ErrOrdinary = errors.New("not a Nydus image")

// ImageKind says what a manifest is.
type ImageKind string

// The kinds of image manifest.
const (
	KindOrdinary ImageKind = "ordinary"  // tar layers
	KindNydus    ImageKind = "nydus"     // data blobs, and the bootstrap as last layer
	KindBoot     ImageKind = "bootstrap" // the bootstrap alone
	KindKept     ImageKind = "tar data"  // what gives the source's bytes again
)

func kindOf(m v1.Manifest) ImageKind {
	switch {
	case isFull(m):
		return KindNydus
	case isNydus(m):
		return KindBoot
	case m.Annotations[annRole] == roleKept:
		return KindKept
	}
	return KindOrdinary
}

// Image is one image of one platform, found where a reference leads to.
type Image struct {
	Source   Source
	Root     Manifest // what the reference names: the manifest itself or an index
	Manifest Manifest
	Spec     v1.Manifest // Manifest decoded
	Kind     ImageKind
	Platform v1.Platform
}

// OpenImage finds the image for a platform (nil: this machine's, or the only
// one there is). Of several it takes the full Nydus manifest, then the
// bootstrap alone, then the ordinary image.
func OpenImage(ctx context.Context, s Source, p *v1.Platform) (*Image, error) {
	root, err := s.Manifest(ctx, v1.Descriptor{})
	if err != nil {
		return nil, err
	}
	all, err := candidates(ctx, s, root, func(have v1.Platform) bool { return p == nil || matches(have, *p) })
	if err != nil {
		return nil, err
	}
	if p == nil {
		all = forHost(all)
	}
	best := all[0]
	for _, c := range all[1:] {
		if rank(c) > rank(best) {
			best = c
		}
	}
	return &Image{s, root, best.manifest, best.image, kindOf(best.image), best.platform}, nil
}

func forHost(all []candidate) []candidate {
	var fit []candidate
	for _, c := range all {
		if matches(c.platform, HostPlatform()) {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return all
	}
	return fit
}

func rank(c candidate) int {
	return map[ImageKind]int{KindNydus: 2, KindBoot: 1}[kindOf(c.image)]
}

// BootstrapLayer is the layer with the bootstrap; ErrOrdinary without one.
func (im *Image) BootstrapLayer() (v1.Descriptor, error) {
	if im.Kind == KindOrdinary {
		return v1.Descriptor{}, fmt.Errorf("manifest %s: %w (hint: lighter convert)", im.Manifest.Digest, ErrOrdinary)
	}
	return im.Spec.Layers[len(im.Spec.Layers)-1], nil
}

// Blob is the descriptor of a data blob by its id. Without a listing manifest,
// and where data stays in another image's layers, the size is unknown: 0.
func (im *Image) Blob(id string) v1.Descriptor {
	for _, d := range im.Spec.Layers {
		if d.Digest.Hex == id {
			return d
		}
	}
	return v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: id}}
}

// Config reads the image's config.
func (im *Image) Config(ctx context.Context) (*v1.ConfigFile, error) {
	raw, err := readAll(ctx, im.Source, im.Spec.Config)
	if err != nil {
		return nil, err
	}
	var c v1.ConfigFile
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("config %s: %w", im.Spec.Config.Digest, err)
	}
	return &c, nil
}

// Opened is an image's bootstrap, ready to be read, and the way to its blobs.
type Opened struct {
	Bootstrap *format.Bootstrap
	Unpacked  *Unpacked

	ctx   context.Context
	image *Image
	file  *os.File
}

// Open unpacks the bootstrap into dir and opens it. The context covers all later reads of blobs.
func (im *Image) Open(ctx context.Context, dir string) (*Opened, error) {
	d, err := im.BootstrapLayer()
	if err != nil {
		return nil, err
	}
	u, err := UnpackBootstrap(ctx, im.Source, d, dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(u.Bootstrap)
	if err != nil {
		return nil, err
	}
	b, err := format.Open(f, u.Size)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return &Opened{Bootstrap: b, Unpacked: u, ctx: ctx, image: im, file: f}, nil
}

// OpenBlob opens a data blob, in the form format's readers take, which close it.
func (o *Opened) OpenBlob(b format.Blob) (io.ReaderAt, int64, error) {
	r, err := o.image.blobReader(o.ctx, b.ID)
	if err != nil {
		return nil, 0, err
	}
	return r, r.Size(), nil
}

// blobReader opens a data blob by its id.
func (im *Image) blobReader(ctx context.Context, id string) (Blob, error) {
	b, err := im.Source.ReaderAt(ctx, im.Blob(id))
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w (hint: the image was copied without its data; use lighter copy, or skopeo copy --all)", err)
	}
	return b, err
}

// Close closes the bootstrap. Not to be called while anything reads.
func (o *Opened) Close() error { return o.file.Close() }

// BlobByID opens a blob of a place by its sha256 in hex, for random access.
func BlobByID(ctx context.Context, s Source, id string) (Blob, error) {
	if !isBlobID(id) {
		return nil, fmt.Errorf("blob %q: %w: not a sha256 in hex", id, ErrNotFound)
	}
	return s.ReaderAt(ctx, v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: id}})
}
