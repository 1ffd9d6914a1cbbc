// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"errors"
	"fmt"
	"io/fs"

	"lighter/format"
)

// ErrClosed is wrapped by errors of calls on a closed Store or Image.
var ErrClosed = errors.New("closed")

// ChunkError says which chunk could not be read. Err wraps format.ErrCorrupt
// when its bytes are wrong wherever they were fetched from,
// context.DeadlineExceeded when time ran out, else the error of the store.
type ChunkError struct {
	Blob  string // blob id
	Chunk uint32 // index in the blob
	Err   error
}

func (e *ChunkError) Error() string {
	return fmt.Sprintf("blob %s: chunk %d: %v", e.Blob, e.Chunk, e.Err)
}

func (e *ChunkError) Unwrap() error { return e.Err }

// permanent says that trying again at once cannot help.
func permanent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) ||
		errors.Is(err, format.ErrCorrupt) || errors.Is(err, format.ErrUnsupported) ||
		errors.Is(err, ErrClosed)
}
