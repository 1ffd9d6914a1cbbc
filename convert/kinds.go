// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// What descriptors and manifests say of themselves, for programs that read
// them in their own way.

// IsBootstrap says whether a layer carries a merged bootstrap.
func IsBootstrap(annotations map[string]string) bool {
	_, ok := annotations[annBootstrap]
	return ok
}

// NeedsOther says whether a data blob's bytes are those of another image's
// layer, as in OCI-ref images.
func NeedsOther(annotations map[string]string) bool {
	_, ok := annotations[annRef]
	return ok
}

// FullDigest is the digest of the full manifest that a bootstrap-only one
// stands for, "" for any other manifest.
func FullDigest(annotations map[string]string) string { return annotations[annFull] }

// DataConfig is a full Nydus image's config without the bootstrap: diff ids
// and history are those of the data blobs alone.
func DataConfig(config []byte) ([]byte, error) {
	c, err := parseConfig(config)
	if err != nil {
		return nil, err
	}
	n := len(c.rootfs.DiffIDs)
	if n == 0 {
		return nil, fmt.Errorf("config: no diff id for the bootstrap")
	}
	h := c.history
	for i := len(h) - 1; i >= 0; i-- {
		if h[i].CreatedBy == HistoryBy && h[i].Comment == HistoryNote {
			h = append(append([]historyEntry{}, h[:i]...), h[i+1:]...)
			break
		}
	}
	if h == nil {
		h = []historyEntry{}
	}
	return c.with(append([]v1.Hash{}, c.rootfs.DiffIDs[:n-1]...), h)
}
