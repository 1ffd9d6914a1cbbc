// SPDX-License-Identifier: Apache-2.0

// Package exporter teaches BuildKit's image, oci and docker exporters the
// compression "nydus", from outside: a Worker wraps one of BuildKit's and
// replaces its Exporter method. Everything else passes through untouched.
//
// An export goes like this. The attributes that only this package understands
// are taken out and checked, the rest goes to BuildKit's own exporter. That one
// is handed the build's result with each reference wrapped, so that asking for
// its layers gives Nydus blobs and, last, the bootstrap layer. It then writes
// config, manifest, attestations and archives as ever. The image exporter's
// manifests become the index that leads with the bootstrap alone, which is
// named and pushed here.
//
// A layer that has no ordinary blob yet is turned into its Nydus blob while its
// diff streams by, and no ordinary blob is made. Any other is streamed from its
// ordinary blob. Either way the blob's digest is kept with the layer's cache
// record, under a key that names the options, and the record's lease keeps the
// blob: later builds reuse it, also after a restart, and pruning the record
// frees it. BuildKit itself never takes the blob for a layer of its own, so
// that other outputs and caches stay what they would be.
package exporter
