// SPDX-License-Identifier: Apache-2.0

// Package disk holds the structures of RAFS v6 and v5 bootstraps and of Nydus
// blobs as they lie on disk, and nothing else: no checks, no policy.
//
// Each structure has its size in bytes as a constant <Name>Size, a method
// Decode(b) that fills it from the first Size bytes of b, and a method
// Append(b) that appends exactly Size bytes to b. Both panic when used on
// fewer bytes than the size, so callers check lengths first. All integers are
// little-endian. Reserved bytes are written as zero and not kept when read,
// except where a field says so.
//
// Field names follow the EROFS on-disk format and the RAFS v6 format.
// Suffixes tell the unit: …Off is bytes, …Blk or …Blkaddr a block number,
// …Size bytes, …Count a number of things.
package disk

import "encoding/binary"

var le = binary.LittleEndian

func zeros(b []byte, n int) []byte {
	return append(b, make([]byte, n)...)
}

// CString returns the bytes of b before its first NUL (all of b without one).
func CString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
