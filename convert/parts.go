// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
)

// The pieces of a conversion, for programs that make layers and manifests in
// their own way.

// Part is one layer that is a Nydus blob already, or a whole image that others
// are built on, which has no Blob and no Meta.
type Part struct {
	Blob      v1.Hash
	Bootstrap []byte            // the layer's own or the image's, uncompressed
	Meta      []byte            // content of <hex>.blob.meta; nil when the blob has no chunks
	Metas     map[string]string // of an image: blob id in hex to file <hex>.blob.meta
}

// ReadPart reads what merging needs from the end of a layer blob.
func ReadPart(digest v1.Hash, blob Blob) (Part, error) {
	bootstrap, meta, err := inlined(blob)
	if err != nil {
		return Part{}, fmt.Errorf("blob %s: %w", digest, err)
	}
	return Part{Blob: digest, Bootstrap: bootstrap, Meta: meta}, nil
}

// BlobDescriptor is a data blob's entry in the full manifest, without the
// digest of a source layer.
func BlobDescriptor(digest v1.Hash, size int64, o format.BuildOptions) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaBlob, Digest: digest, Size: size, Annotations: map[string]string{
		annBlob:    "true",
		annOptions: Fingerprint(o),
	}}
}

// IsBlob says whether a layer of this media type is a Nydus data blob.
func IsBlob(mediaType string) bool { return mediaType == string(mediaBlob) }

// BlobOptions gives the Fingerprint that a data blob was made with, "" where its
// annotations do not tell.
func BlobOptions(annotations map[string]string) string { return annotations[annOptions] }

// Fingerprint names everything that decides a blob's bytes besides its source.
func Fingerprint(o format.BuildOptions) string { return (&Options{Build: o}).fingerprint() }

// Packed is the bootstrap layer of an image, in a file.
type Packed struct {
	File       string
	Descriptor v1.Descriptor
	DiffID     v1.Hash
}

// PackParts merges the parts, lowest first, and packs the bootstrap layer into
// a file below dir, which the caller removes. The repository, "host/repository"
// or "", becomes the origin hint; prefetch is written into the bootstrap.
func PackParts(dir string, parts []Part, repository string, prefetch []string) (Packed, error) {
	c := &converter{work: dir}
	var layers []*layer
	for i, p := range parts {
		l := &layer{desc: v1.Descriptor{Digest: p.Blob}, metas: p.Metas}
		l.source.Digest.Hex = fmt.Sprint(i) // names the files
		if err := c.keep(l, p.Bootstrap, p.Meta); err != nil {
			return Packed{}, err
		}
		layers = append(layers, l)
	}
	merged := filepath.Join(dir, "image.boot")
	if _, err := mergeLayers(merged, layers, prefetch); err != nil {
		return Packed{}, fmt.Errorf("merge: %w", err)
	}
	b, err := packBootstrap(merged+".tar.gz", merged, layers, repository)
	if err != nil {
		return Packed{}, err
	}
	return Packed{b.file, b.desc, b.diffID}, os.Remove(merged)
}

// Twin is a manifest that lists a full Nydus image's bootstrap alone, and its config.
type Twin struct {
	Manifest Manifest
	Config   []byte
}

// BootstrapTwin makes the manifest through which engines pull no data.
func BootstrapTwin(full Manifest, config []byte) (Twin, error) {
	im, err := parseManifest(full)
	if err != nil {
		return Twin{}, err
	}
	if !isFull(im) {
		return Twin{}, fmt.Errorf("manifest %s: is no full Nydus image", full.Digest)
	}
	src, err := parseConfig(config)
	if err != nil {
		return Twin{}, err
	}
	last := len(im.Layers) - 1
	if len(src.rootfs.DiffIDs) != last+1 {
		return Twin{}, fmt.Errorf("manifest %s: %d layers, but the config has %d diff ids", full.Digest, last+1, len(src.rootfs.DiffIDs))
	}
	ann := map[string]string{}
	for k, v := range im.Annotations {
		ann[k] = v
	}
	boot := bootLayer{desc: im.Layers[last], diffID: src.rootfs.DiffIDs[last]}
	m, b, err := bootManifest(src, boot, full.Digest, ann)
	return Twin{m, b.raw}, err
}

// ManifestAnnotations are the annotations of a full manifest of layers that
// were built with these options.
func ManifestAnnotations(repository string, o format.BuildOptions) map[string]string {
	ann := map[string]string{annFSVersion: fsVersion(o)}
	if repository != "" {
		ann[annRepository] = repository
	}
	return ann
}

// AddTwins turns an index of full manifests, or a single one, into the index
// whose first entry for each platform moves no data. Entries that are no Nydus
// images, such as attestations, and the index's annotations stay as they are.
// twin gives the manifest for an entry's bootstrap, platform what a single
// manifest runs on.
func AddTwins(root Manifest, platform v1.Platform, twin func(v1.Descriptor) (v1.Descriptor, error)) (Manifest, error) {
	idx := v1.IndexManifest{SchemaVersion: 2}
	if root.MediaType.IsIndex() {
		var err error
		if idx, err = parseIndex(root); err != nil {
			return Manifest{}, err
		}
	} else {
		d := root.Descriptor()
		d.Platform = &platform
		idx.Manifests = []v1.Descriptor{d}
	}
	idx.MediaType = "application/vnd.oci.image.index.v1+json"
	var out []v1.Descriptor
	for _, d := range idx.Manifests {
		if !runnable(d) {
			out = append(out, d)
			continue
		}
		boot, err := twin(d)
		if err != nil {
			return Manifest{}, err
		}
		if d.Platform == nil {
			d.Platform = &platform
		}
		plain := *d.Platform
		plain.OSFeatures = nil
		marked := plain
		marked.OSFeatures = []string{osFeature}
		boot.Platform, d.Platform = &plain, &marked
		boot.Annotations, d.ArtifactType = d.Annotations, ""
		out = append(out, boot, d)
	}
	idx.Manifests = out
	raw, err := json.Marshal(idx)
	if err != nil {
		return Manifest{}, err
	}
	return NewManifest(raw, idx.MediaType), nil
}

// AddOrdinary makes of the index that AddTwins gives a merged one: engines that
// know the feature of its entries take the ordinary image, whose manifests come
// last. platform is what a single ordinary manifest runs on. It returns the
// entries of the ordinary images as well.
func AddOrdinary(lazy, ordinary Manifest, platform v1.Platform) (Manifest, []v1.Descriptor, error) {
	idx, err := parseIndex(lazy)
	if err != nil {
		return Manifest{}, nil, err
	}
	for i, d := range idx.Manifests {
		if runnable(d) {
			marked := *d.Platform
			marked.OSFeatures = []string{osFeature}
			idx.Manifests[i].Platform = &marked
		}
	}
	more := []v1.Descriptor{ordinary.Descriptor()}
	if ordinary.MediaType.IsIndex() {
		parsed, err := parseIndex(ordinary)
		if err != nil {
			return Manifest{}, nil, err
		}
		more = parsed.Manifests
	}
	var images []v1.Descriptor
	for _, d := range more {
		if runnable(d) {
			if d.Platform == nil {
				d.Platform = &platform
			}
			images = append(images, d)
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		return Manifest{}, nil, err
	}
	return NewManifest(raw, lazy.MediaType), images, nil
}

// ChildTags names the tags that keep an index's children alive where untagged
// manifests are swept.
func ChildTags(tag string, p v1.Platform, several bool) (boot, data string) {
	boot, data, _ = childTags(tag, p, several)
	return boot, data
}

// SourceTag names the tag that keeps an ordinary image of a merged index alive.
func SourceTag(tag string, p v1.Platform, several bool) string {
	_, _, src := childTags(tag, p, several)
	return src
}
