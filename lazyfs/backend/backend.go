// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"fmt"
	"strings"
)

// Blob is one opened blob. It is an alias of an unnamed interface, so that a
// consumer's own equal interface takes it without importing this package.
//
// ReadAt has the contract of [io.ReaderAt]: it fills p or returns an error, and
// at the end of the blob what is there and io.EOF. off and Size are in bytes.
// Calls may run together.
type Blob = interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
	Size() int64
}

// Opener is a store of blobs. Open returns an error that wraps fs.ErrNotExist
// if, and only if, the store surely does not have the blob.
type Opener = interface {
	Open(ctx context.Context, blobID string) (Blob, error)
}

// parseID returns the 64 hex digits of a blob id given as hex or sha256:hex.
func parseID(id string) (string, error) {
	hex := strings.TrimPrefix(id, "sha256:")
	if len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		if len(id) > 80 {
			id = id[:80] + "…"
		}
		return "", fmt.Errorf("blob id %q is not a sha256 in lower case hex", id)
	}
	return hex, nil
}

// clip bounds a read of n bytes at off in a blob of size bytes: how many of them
// exist, and whether that is less than asked for.
func clip(n int, off, size int64) (int, bool) {
	if off >= size {
		return 0, n > 0
	}
	if int64(n) > size-off {
		return int(size - off), true
	}
	return n, false
}
