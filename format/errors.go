// SPDX-License-Identifier: Apache-2.0

package format

import (
	"errors"
	"fmt"
	"strings"
)

// ErrCorrupt is wrapped by every error that says that bytes contradict the
// format or their digest. Reading the same bytes again gives the same error.
var ErrCorrupt = errors.New("corrupt")

// ErrUnsupported is wrapped by every error about a valid image that uses a
// version or feature that this package does not read.
var ErrUnsupported = errors.New("unsupported")

// Error tells what in an image is wrong. It wraps ErrCorrupt or
// ErrUnsupported, and a cause where there is one.
type Error struct {
	Structure string // on-disk structure: "superblock", "inode", "chunk table" …
	Field     string // field of the structure; may be empty
	Offset    int64  // in bytes, in the bootstrap or blob; −1: not known
	Detail    string // what was found, and what was expected
	Err       error  // ErrCorrupt or ErrUnsupported
	Cause     error  // may be nil
}

// Error names structure, field and offset, then what is wrong with them.
func (e *Error) Error() string {
	var s strings.Builder
	s.WriteString(e.Structure)
	if e.Field != "" {
		s.WriteString(": " + e.Field)
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&s, " at offset %d", e.Offset)
	}
	if e.Detail != "" {
		s.WriteString(": " + e.Detail)
	}
	if e.Cause != nil {
		s.WriteString(": " + e.Cause.Error())
	}
	return s.String() + ": " + e.Err.Error()
}

// Unwrap returns the sentinel and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause != nil {
		return []error{e.Err, e.Cause}
	}
	return []error{e.Err}
}

func corrupt(structure, field string, off int64, detail string, args ...any) *Error {
	return &Error{Structure: structure, Field: field, Offset: off, Detail: fmt.Sprintf(detail, args...), Err: ErrCorrupt}
}

func unsupported(structure, field string, off int64, detail string, args ...any) *Error {
	return &Error{Structure: structure, Field: field, Offset: off, Detail: fmt.Sprintf(detail, args...), Err: ErrUnsupported}
}
