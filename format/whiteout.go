// SPDX-License-Identifier: Apache-2.0

package format

import "strings"

// Names that remove files of lower layers (OCI image layer specification).
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // bookkeeping of AUFS and the opaque mark
)

// Marks in the bootstrap of a single layer. Merge obeys and drops them.
const (
	markXattrs = "trusted.lighter."
	// markImplicit is on a directory that the layer does not list. What a
	// lower layer says about it stays.
	markImplicit = markXattrs + "implicit"
	// markLower is on the stand-in of a hard link to a file of a lower layer,
	// and holds that file's path without leading slash.
	markLower = markXattrs + "link"
	// layerVolume is the volume name of bootstraps that have these marks, and
	// markLayer is on the root of those of RAFS v5, which has no volume names.
	layerVolume = "lighter layer"
	markLayer   = markXattrs + "layer"
)

// whiteout tells what a name says about lower layers: the name it removes, or
// "" when there is nothing to remove. ok is false for ordinary names.
func whiteout(name string) (removed string, ok bool) {
	if !strings.HasPrefix(name, whiteoutPrefix) {
		return "", false
	}
	if strings.HasPrefix(name, whiteoutMeta) {
		return "", true
	}
	return name[len(whiteoutPrefix):], true
}

// hiddenXattr reports whether an image may not set this attribute: it belongs
// to overlayfs, or is one of our marks.
func hiddenXattr(name string) bool {
	return strings.HasPrefix(name, hiddenXattrs) || strings.HasPrefix(name, markXattrs)
}
