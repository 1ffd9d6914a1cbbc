// SPDX-License-Identifier: Apache-2.0

package lazyfs

import "context"

// Source is one stored blob as a random access byte store. Its methods may be
// called by many goroutines at once.
//
// ReadAt fills p from byte off of the stored (compressed) blob and follows the
// rules of io.ReaderAt; it returns soon after ctx ends. Size is the length of
// the stored blob in bytes. A Source that also is an io.Closer is closed when
// no read uses it any more.
//
// It is an alias of an unnamed interface, so that packages that know nothing of
// this one satisfy it by shape, method results included.
type Source = interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Size() int64
}

// Opener finds blobs by id. Open returns an error that wraps fs.ErrNotExist
// only when the store surely lacks the blob; such an error, and one that wraps
// fs.ErrPermission, ends a read at once, every other one is tried again until
// the read's deadline. It may be called by many goroutines at once.
type Opener = interface {
	Open(ctx context.Context, blobID string) (Source, error)
}
