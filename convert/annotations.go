// SPDX-License-Identifier: Apache-2.0

package convert

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Keys and media types of Nydus images, as its converters and snapshotters write and read them.
const (
	mediaBlob types.MediaType = "application/vnd.oci.image.layer.nydus.blob.v1"

	annBlob            = "containerd.io/snapshot/nydus-blob"
	annBootstrap       = "containerd.io/snapshot/nydus-bootstrap"
	annFSVersion       = "containerd.io/snapshot/nydus-fs-version"
	annRef             = "containerd.io/snapshot/nydus-ref"
	annSourceDigest    = "containerd.io/snapshot/nydus-source-digest"
	annSourceReference = "containerd.io/snapshot/nydus-source-reference"

	osFeature = "nydus.remoteimage.v1" // marks the full manifest's entry in an index
)

// Keys of our own.
const (
	annOptions    = "io.lighter.options"    // blob layer: the options that decide its bytes
	annRole       = "io.lighter.role"       // manifest: roleBootstrap
	annFull       = "io.lighter.full"       // bootstrap-only manifest: digest of the full one
	annRepository = "io.lighter.repository" // manifest: "host/repository" that it was made for

	roleBootstrap = "bootstrap"
	roleKept      = "tar"                    // the manifest with the kept tar data
	annMedia      = "io.lighter.config-type" // of that manifest: media type of the source's config
)

// Names inside the bootstrap layer.
const (
	bootDir       = "image"
	bootName      = "image/image.boot"
	bootNameOld   = "image.boot" // written by the first converters
	metaSuffix    = ".blob.meta"
	originName    = "image/lighter.json"
	fsVersionSix  = "6"
	fsVersionFive = "5"
)

// The bootstrap's line in an image's history, by which other tools know it.
const (
	HistoryBy   = "Nydus Converter"       // created_by
	HistoryNote = "Nydus Bootstrap Layer" // comment
)

// isBootstrapLayer says whether d carries a merged bootstrap.
func isBootstrapLayer(d v1.Descriptor) bool {
	_, ok := d.Annotations[annBootstrap]
	return ok
}

// isNydus says whether m is a Nydus image: the last layer carries the bootstrap.
func isNydus(m v1.Manifest) bool {
	return len(m.Layers) > 0 && isBootstrapLayer(m.Layers[len(m.Layers)-1])
}

// isFull says whether m is a Nydus image that lists its data blobs as well.
func isFull(m v1.Manifest) bool {
	return isNydus(m) && m.Annotations[annRole] != roleBootstrap && (len(m.Layers) > 1 || m.Annotations[annFull] == "")
}

// SourceOf is the digest of the layer that a data blob was made of, "" when it is not told.
func SourceOf(d v1.Descriptor) string { return d.Annotations[annSourceDigest] }
