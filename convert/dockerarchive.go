// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// dockerArchive reads what "docker save" writes. Such an archive has no
// manifest with digests; one is made from the files' content, so that the
// archive reads as any other place.
type dockerArchive struct {
	ref      Reference
	tree     *tarTree
	names    map[v1.Hash]string // of configs and layers in the archive
	manifest Manifest
}

type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func openDockerArchive(ctx context.Context, r Reference) (*dockerArchive, error) {
	t, err := openTarTree(r.Path)
	if err != nil {
		return nil, err
	}
	a := &dockerArchive{ref: r, tree: t, names: map[v1.Hash]string{}}
	if err := a.load(ctx); err != nil {
		t.f.Close()
		return nil, fmt.Errorf("%s: %w", r.Path, err)
	}
	return a, nil
}

func (a *dockerArchive) load(ctx context.Context) error {
	raw, err := readTree(a.tree, "manifest.json")
	if err != nil {
		return fmt.Errorf("not a docker archive: manifest.json: %w", notFound(err))
	}
	var images []savedImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return fmt.Errorf("manifest.json: %w", err)
	}
	im, err := a.choose(images)
	if err != nil {
		return err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.DockerManifestSchema2}
	if m.Config, err = a.describe(ctx, im.Config); err != nil {
		return err
	}
	m.Config.MediaType = types.DockerConfigJSON
	for _, l := range im.Layers {
		d, err := a.describe(ctx, l)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, d)
	}
	if raw, err = json.Marshal(m); err != nil {
		return err
	}
	a.manifest = NewManifest(raw, m.MediaType)
	return nil
}

// choose finds the image by its name.
func (a *dockerArchive) choose(images []savedImage) (savedImage, error) {
	var all []string
	for _, im := range images {
		for _, t := range im.RepoTags {
			all = append(all, t)
			if sameName(t, a.ref.Tag) {
				return im, nil
			}
		}
	}
	if a.ref.Tag == "" && len(images) == 1 {
		return images[0], nil
	}
	if a.ref.Tag == "" {
		return savedImage{}, fmt.Errorf("holds %d images; name one of %s", len(images), strings.Join(all, ", "))
	}
	return savedImage{}, fmt.Errorf("image %q: %w; the archive has %s", a.ref.Tag, ErrNotFound, strings.Join(all, ", "))
}

// sameName compares image names as Docker does: without a registry it is Docker
// Hub's, and without a tag "latest".
func sameName(a, b string) bool {
	if a == b {
		return true
	}
	ta, err := name.NewTag(a)
	if err != nil {
		return false
	}
	tb, err := name.NewTag(b)
	return err == nil && ta.Name() == tb.Name()
}

// describe hashes a file of the archive and remembers its name.
func (a *dockerArchive) describe(ctx context.Context, name string) (v1.Descriptor, error) {
	b, err := a.tree.open(strings.TrimPrefix(name, "./"))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("%s: %w", name, notFound(err))
	}
	h := sha256.New()
	r := io.NewSectionReader(b, 0, b.Size())
	head := make([]byte, 4)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return v1.Descriptor{}, fmt.Errorf("%s: %w", name, err)
	}
	if _, err := io.Copy(h, &contextReader{ctx, r, b}); err != nil {
		return v1.Descriptor{}, fmt.Errorf("%s: %w", name, err)
	}
	d := v1.Descriptor{MediaType: types.DockerUncompressedLayer, Size: b.Size(), Digest: sumOf(h)}
	if compressionOf(head[:n]) == gzipped {
		d.MediaType = types.DockerLayer
	}
	a.names[d.Digest] = strings.TrimPrefix(name, "./")
	return d, nil
}

func (a *dockerArchive) Manifest(_ context.Context, d v1.Descriptor) (Manifest, error) {
	if d.Digest != (v1.Hash{}) && d.Digest != a.manifest.Digest {
		return Manifest{}, fmt.Errorf("%s: manifest %s: %w", a.ref.Path, d.Digest, ErrNotFound)
	}
	return a.manifest, nil
}

func (a *dockerArchive) ReaderAt(_ context.Context, d v1.Descriptor) (Blob, error) {
	name, ok := a.names[d.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: blob %s: %w", a.ref.Path, d.Digest, ErrNotFound)
	}
	return a.tree.open(name)
}

func (a *dockerArchive) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	b, err := a.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return verified(&contextReader{ctx, io.NewSectionReader(b, 0, b.Size()), b}, d), nil
}

func (a *dockerArchive) Close() error { return a.tree.f.Close() }
