// SPDX-License-Identifier: Apache-2.0

// Package convert turns ordinary container images into Nydus images and reads,
// checks and copies both, wherever they lie: in a registry, in an OCI image
// layout, or in an OCI or Docker archive.
//
// A place that is read is a [Source], one that is written a [Sink]; both are
// opened by [Reference], the parsed form of what a user types. [Convert] builds
// one Nydus blob per source layer, several at a time, spooled on disk and never
// held in memory; merges the layers' bootstraps into one; and writes a full
// manifest that lists the blobs, a small one that lists the bootstrap alone,
// and an index of the two. The same input and options give the same bytes.
//
// Nothing becomes visible under its final name before it is complete: blobs are
// written under a temporary name and renamed, manifests follow the blobs that
// they list, and the tag comes last.
package convert
