// SPDX-License-Identifier: Apache-2.0

// Package mounts turns images into mounts and keeps account of them: it opens
// the image, has the keeper mount it, serves it, and after a restart takes over
// what an earlier process served.
//
// A mount is usable when [Manager.Mount] returns: the root has been read by
// another process. Mounting needs no network, except for the question whether
// the data exists (Spec.Probe), which is given a few seconds and whose failure
// is only logged.
//
// Order of locks: the lock of an id, then Manager.mu. Nothing is waited for
// under Manager.mu.
package mounts
