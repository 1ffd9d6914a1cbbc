// SPDX-License-Identifier: Apache-2.0

// Package lazybase lets BuildKit build on accelerated images without pulling
// them: FROM and COPY --from such an image fetch its metadata, and what build
// steps read is fetched when they read it.
//
// An accelerated image becomes one cache record, whatever the number of its
// data blobs. The record's snapshot is an empty directory that carries a label.
// The snapshotter that BuildKit is given wraps the worker's own, and wherever
// that names the empty directory, in a bind or as a lower directory of an
// overlay, puts the mount of the image's merged bootstrap. To BuildKit the
// record is a layer that has no blob yet: an ordinary image, or a cache, is made
// of it by reading the whole tree into a tar. The exporter knows better: it
// lists the image's own blobs.
//
// The mounts are served by another process, or daemon and kernel would wait
// for each other: the daemon copies from, checksums and compares what it has
// mounted. That process is the keeper of package lazyfs/keeper, which runs the
// server proper and ends with the daemon. The data comes through the daemon, so
// that mirrors, certificates and the credentials of the clients' sessions are
// those of any pull.
//
// On disk, below the directory that [New] is given:
//
//	images/<hex>/   an image by the digest of its bootstrap layer: image.boot,
//	                *.blob.meta, base.json, and the mount point tree
//	cache/          chunks of all images
//	*.sock          where daemon and server talk to each other
package lazybase
