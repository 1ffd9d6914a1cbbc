// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// No digest protects oci-layout and index.json, so their properties are held
// to what the OCI image specification knows, letter by letter: a damaged name
// would otherwise pass for one of somebody's extensions.
var (
	layoutKeys     = []string{"imageLayoutVersion"}
	indexKeys      = []string{"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"}
	descriptorKeys = []string{"mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"}
	platformKeys   = []string{"architecture", "os", "os.version", "os.features", "variant", "features"}
)

// layout checks a layout's own files, then the images that the reference names.
func (c *checker) layout(ctx context.Context, l *layoutSource) error {
	if err := c.problem(ctx, l.ref.Path, l.strict()); err != nil {
		return err
	}
	if l.ref.Tag != "" || l.ref.Digest != (v1.Hash{}) {
		root, err := l.root()
		if err != nil {
			return err
		}
		return c.root(ctx, root, l.ref.Tag)
	}
	for _, d := range l.index.Manifests {
		if err := c.root(ctx, plainDescriptor(v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}), d.Annotations[refName]); err != nil {
			return err
		}
	}
	return c.unlisted(ctx, l)
}

// strict holds oci-layout and index.json against the specification.
func (l *layoutSource) strict() error {
	marker, err := readTree(l.tree, "oci-layout")
	if err != nil {
		return err
	}
	if _, err := exactKeys("oci-layout", marker, layoutKeys); err != nil {
		return err
	}
	top, err := exactKeys("index.json", l.raw, indexKeys)
	if err != nil {
		return err
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(top["manifests"], &entries); err != nil {
		return fmt.Errorf("index.json: manifests: %w", err)
	}
	if mt := l.index.MediaType; mt != "" && !mt.IsIndex() {
		return fmt.Errorf("index.json: media type %q is no index", mt)
	}
	names := map[string]v1.Hash{}
	for i, e := range entries {
		where := fmt.Sprintf("index.json: manifests[%d]", i)
		fields, err := exactKeys(where, e, descriptorKeys)
		if err != nil {
			return err
		}
		if p := fields["platform"]; p != nil {
			if _, err := exactKeys(where+".platform", p, platformKeys); err != nil {
				return err
			}
		}
		d := l.index.Manifests[i]
		if !d.MediaType.IsIndex() && !d.MediaType.IsImage() {
			return fmt.Errorf("%s: media type %q is neither image nor index", where, d.MediaType)
		}
		if d.Size <= 0 {
			return fmt.Errorf("%s: size %d", where, d.Size)
		}
		n, named := d.Annotations[refName]
		if other, twice := names[n]; named && twice && other != d.Digest {
			return fmt.Errorf("%s: tag %q names two images", where, n)
		}
		names[n] = d.Digest
	}
	return nil
}

// exactKeys decodes an object whose keys must be among those known.
func exactKeys(where string, raw []byte, known []string) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(known, k) {
			return nil, fmt.Errorf("%s: unknown property %q", where, k)
		}
	}
	return m, nil
}

// unlisted checks the blob files that no manifest led to: each must be what its name says.
func (c *checker) unlisted(ctx context.Context, l *layoutSource) error {
	names, err := l.blobNames()
	if err != nil {
		return c.problem(ctx, l.ref.Path, err)
	}
	for _, name := range names {
		h, err := v1.NewHash(strings.ReplaceAll(strings.TrimPrefix(name, "blobs/"), "/", ":"))
		if err == nil && (c.blobs[h] || c.manifests[h]) || err == nil && c.o.MetadataOnly {
			continue
		}
		if err == nil {
			err = c.unlistedBlob(ctx, l, h)
		}
		if err := c.problem(ctx, path.Join(l.ref.Path, name), err); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) unlistedBlob(ctx context.Context, l *layoutSource, h v1.Hash) error {
	b, err := l.ReaderAt(ctx, v1.Descriptor{Digest: h})
	if err != nil {
		return err
	}
	size := b.Size()
	b.Close()
	return c.layer(ctx, v1.Descriptor{Digest: h, Size: size}, v1.Hash{})
}

// blobNames lists all files below blobs/, sorted.
func (l *layoutSource) blobNames() ([]string, error) {
	var out []string
	switch t := l.tree.(type) {
	case *tarTree:
		for n := range t.files {
			if strings.HasPrefix(n, "blobs/") {
				out = append(out, n)
			}
		}
	case dirTree:
		root := filepath.Join(string(t), "blobs")
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil || e.IsDir() {
				return err
			}
			rel, err := filepath.Rel(string(t), p)
			out = append(out, filepath.ToSlash(rel))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(out)
	return out, nil
}
