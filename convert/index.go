// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"encoding/json"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// IndexMode says what the target's tag names.
type IndexMode string

// Index modes.
const (
	IndexLazy   IndexMode = "lazy"   // index: bootstrap alone first, full manifest second
	IndexMerged IndexMode = "merged" // the same with the ordinary image as third entry
	IndexNone   IndexMode = "none"   // the full manifest itself
)

// trio is the manifests of one platform.
type trio struct {
	platform v1.Platform
	boot     Manifest // bootstrap alone
	full     Manifest
	source   Manifest // the ordinary image
}

// buildIndex lists the manifests of all platforms. Order matters: engines take
// the first entry that fits them, and Docker with the plugin must meet the small
// manifest first. Every entry has a platform, since a snapshotter stumbles over
// one without, and none an artifactType, which copying tools drop.
func buildIndex(mode IndexMode, trios []trio) (Manifest, error) {
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, t := range trios {
		plain := v1.Platform{OS: t.platform.OS, Architecture: t.platform.Architecture, Variant: t.platform.Variant, OSVersion: t.platform.OSVersion}
		marked := plain
		marked.OSFeatures = []string{osFeature}
		boot := plain
		if mode == IndexMerged { // leaves the unmarked entry to engines that know the feature
			boot = marked
		}
		idx.Manifests = append(idx.Manifests, entry(t.boot, boot), entry(t.full, marked))
		if mode == IndexMerged {
			idx.Manifests = append(idx.Manifests, entry(t.source, plain))
		}
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		return Manifest{}, err
	}
	return NewManifest(raw, types.OCIImageIndex), nil
}

// fullIndex lists the full manifests alone, for several platforms without the small ones.
func fullIndex(trios []trio) (Manifest, error) {
	idx := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, t := range trios {
		idx.Manifests = append(idx.Manifests, entry(t.full, t.platform))
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		return Manifest{}, err
	}
	return NewManifest(raw, types.OCIImageIndex), nil
}

func entry(m Manifest, p v1.Platform) v1.Descriptor {
	d := m.Descriptor()
	d.Platform = &p
	return d
}

// childTags names the tags that keep the children of an index alive where
// untagged manifests are swept: TAG-boot and TAG-data, and TAG-src for the
// ordinary image of a merged index; with the platform when there are several.
func childTags(tag string, p v1.Platform, several bool) (boot, data, src string) {
	suffix := ""
	if several {
		suffix = "-" + strings.NewReplacer("/", "-", ":", "-").Replace(fmt.Sprint(p))
	}
	return tag + "-boot" + suffix, tag + "-data" + suffix, tag + "-src" + suffix
}
