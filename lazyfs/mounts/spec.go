// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"fmt"
	"strings"
)

// Spec says what to mount and where its data comes from. The keeper stores it
// with the mount, so a later process can open the image again.
type Spec struct {
	// Bootstrap is the path of the uncompressed bootstrap file.
	Bootstrap string `json:"bootstrap"`
	// Digest is "sha256:…" of that file; empty if nothing vouches for it.
	Digest string `json:"digest,omitempty"`
	// MetaDir may hold <hex>.blob.meta files; empty if there are none.
	MetaDir string `json:"meta_dir,omitempty"`
	// Repositories ("host/repo") may have the data, tried in this order.
	Repositories []string `json:"repositories,omitempty"`
	// BlobDirs are local directories that may have the data.
	BlobDirs []string `json:"blob_dirs,omitempty"`
	// Probe asks, before mounting, whether the data exists at all.
	Probe bool `json:"probe,omitempty"`
}

// Status describes one mount.
type Status struct {
	ID     string `json:"id"`
	Target string `json:"target"`
	Spec   Spec   `json:"spec"`
	// Complete says that all data is in the cache.
	Complete bool `json:"complete"`
	// Error says why reads fail: the image could not be opened again after
	// a restart. Empty is well.
	Error string `json:"error,omitempty"`
}

// MissingBlobsError says that the stores surely lack data of an image.
type MissingBlobsError struct {
	// Blobs are the ids in hex.
	Blobs []string
	// Places are the repositories and directories that were asked.
	Places []string
}

func (e *MissingBlobsError) Error() string {
	const most = 3
	ids := e.Blobs
	more := ""
	if len(ids) > most {
		more = fmt.Sprintf(" and %d more", len(ids)-most)
		ids = ids[:most]
	}
	places := strings.Join(e.Places, ", ")
	if places == "" {
		places = "any place known for it"
	}
	return fmt.Sprintf("data of the image is not in %s (missing: %s%s): the image was copied without its data: "+
		"use `skopeo copy --all`, `crane copy` or `lighter copy`", places, strings.Join(ids, ", "), more)
}
