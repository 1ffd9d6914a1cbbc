// SPDX-License-Identifier: Apache-2.0

package graphdriver

import "context"

// Mounter shows a lazy layer as a directory tree. The driver never calls it twice at once for the same id, but does so
// for different ids.
type Mounter interface {
	// Mount mounts the tree of l on the existing directory target, and returns when it can be read. Called again with the
	// same id and target, also by a process that was restarted, it keeps a mount that still works.
	Mount(ctx context.Context, id string, l LazyLayer, target string) error
	// Unmount takes the mount of id away; that there is none is no error. Readers that still hold the tree (an overlay
	// that is about to go) are served until they have gone.
	Unmount(ctx context.Context, id string) error
}

// LazyLayer says what to mount and where its data may be found.
type LazyLayer struct {
	Bootstrap    string   // path of the bootstrap file
	Digest       string   // "sha256:<hex>" of that file, recorded when it was stored: refuse another
	MetaDir      string   // directory of <blob hex>.blob.meta files; "" when the layer brought none
	Repositories []string // "host/repository", most likely first
	BlobDirs     []string // directories of whole blobs, named by their hex id
}
