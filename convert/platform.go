// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// HostPlatform is what this machine runs: Linux on its own architecture.
func HostPlatform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// matches says whether an image for have runs where want is asked for; a
// variant counts only when both name one.
func matches(have, want v1.Platform) bool {
	return have.OS == want.OS && have.Architecture == want.Architecture &&
		(have.Variant == "" || want.Variant == "" || have.Variant == want.Variant)
}

// runnable leaves out entries of an index that are no images, such as attestations.
func runnable(d v1.Descriptor) bool {
	if _, ok := d.Annotations["vnd.docker.reference.type"]; ok {
		return false
	}
	return d.MediaType.IsImage() && (d.Platform == nil || d.Platform.OS != "unknown")
}

// parseIndex decodes an index and bounds its entries.
func parseIndex(m Manifest) (v1.IndexManifest, error) {
	var idx v1.IndexManifest
	if err := json.Unmarshal(m.Raw, &idx); err != nil {
		return idx, fmt.Errorf("index %s: %w", m.Digest, err)
	}
	if idx.SchemaVersion != 2 {
		return idx, fmt.Errorf("index %s: schema version %d is not 2", m.Digest, idx.SchemaVersion)
	}
	return idx, nil
}

// parseManifest decodes an image manifest.
func parseManifest(m Manifest) (v1.Manifest, error) {
	var im v1.Manifest
	if err := json.Unmarshal(m.Raw, &im); err != nil {
		return im, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	if im.SchemaVersion != 2 {
		return im, fmt.Errorf("manifest %s: schema version %d is not 2", m.Digest, im.SchemaVersion)
	}
	return im, nil
}

// candidate is one image manifest that a reference leads to.
type candidate struct {
	manifest Manifest
	image    v1.Manifest
	platform v1.Platform
}

// candidates lists the images behind a root manifest that keep accepts, in the
// order of the index. A platform that the index does not tell is taken from the config.
func candidates(ctx context.Context, s Source, root Manifest, keep func(v1.Platform) bool) ([]candidate, error) {
	if !root.MediaType.IsIndex() {
		c, err := loadCandidate(ctx, s, root.Descriptor(), nil)
		return []candidate{c}, err
	}
	idx, err := parseIndex(root)
	if err != nil {
		return nil, err
	}
	var out []candidate
	var offered []string
	for _, d := range idx.Manifests {
		if !runnable(d) {
			continue
		}
		if d.Platform != nil {
			offered = append(offered, d.Platform.String())
			if !keep(*d.Platform) {
				continue
			}
		}
		c, err := loadCandidate(ctx, s, d, d.Platform)
		if err != nil {
			return nil, err
		}
		if d.Platform != nil || keep(c.platform) {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		slices.Sort(offered)
		return nil, fmt.Errorf("index %s: %w: no image for this platform; it has %s (hint: --platform)", root.Digest, ErrNotFound, strings.Join(slices.Compact(offered), ", "))
	}
	return out, nil
}

func loadCandidate(ctx context.Context, s Source, d v1.Descriptor, p *v1.Platform) (candidate, error) {
	m, err := s.Manifest(ctx, v1.Descriptor{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType})
	if err != nil {
		return candidate{}, err
	}
	im, err := parseManifest(m)
	if err != nil {
		return candidate{}, err
	}
	c := candidate{manifest: m, image: im}
	if p != nil {
		c.platform = *p
		return c, nil
	}
	raw, err := readAll(ctx, s, im.Config)
	if err != nil {
		return candidate{}, fmt.Errorf("config: %w", err)
	}
	if err := json.Unmarshal(raw, &c.platform); err != nil {
		return candidate{}, fmt.Errorf("config %s: %w", im.Config.Digest, err)
	}
	return c, nil
}
