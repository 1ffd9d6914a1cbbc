// SPDX-License-Identifier: Apache-2.0

package format

import (
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/zeebo/blake3"
)

// Digester is the digest algorithm of a blob's chunks, numbered as in the
// RAFS v6 blob table. Both give 32 bytes.
type Digester uint32

const (
	Blake3 Digester = 0 // BLAKE3-256
	SHA256 Digester = 1
)

// String returns the name that the command line uses.
func (d Digester) String() string {
	switch d {
	case Blake3:
		return "blake3"
	case SHA256:
		return "sha256"
	}
	return fmt.Sprintf("digester %d", uint32(d))
}

// ParseDigester is the inverse of String.
func ParseDigester(name string) (Digester, error) {
	for _, d := range []Digester{Blake3, SHA256} {
		if d.String() == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("unknown digester %q", name)
}

// Valid reports whether d is one of the known algorithms.
func (d Digester) Valid() bool { return d <= SHA256 }

// Sum returns the digest of p. It panics if d is not Valid. It is safe for
// concurrent use.
func (d Digester) Sum(p []byte) [32]byte {
	switch d {
	case Blake3:
		return blake3.Sum256(p)
	case SHA256:
		return sha256.Sum256(p)
	}
	panic("format: internal error: sum with unknown " + d.String())
}

// New returns a running digest. It panics if d is not Valid.
func (d Digester) New() hash.Hash {
	switch d {
	case Blake3:
		return blake3.New()
	case SHA256:
		return sha256.New()
	}
	panic("format: internal error: new with unknown " + d.String())
}
