// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"encoding/binary"
	"path"
	"regexp"
	"strconv"
)

const tarBlock = 512 // bytes of a tar header

// tarChecksum tells whether a block is a tar header with a fitting checksum.
func tarChecksum(b []byte) bool {
	if len(b) < tarBlock {
		return false
	}
	field := bytes.Trim(b[148:156], " \x00")
	want, err := strconv.ParseInt(string(field), 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, c := range b[:tarBlock] {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}

// isNydusBlob tells from a stream's last bytes whether it is a Nydus data blob: one that ends with the tar header of a
// blob's part, or with a chunk table's header (Nydus data blob layouts, "toc", "inline" and "separate").
func isNydusBlob(tail []byte) bool {
	if len(tail) >= tarBlock {
		h := tail[len(tail)-tarBlock:]
		if tarChecksum(h) && bytes.Equal(h[257:265], []byte("ustar  \x00")) {
			name, _, _ := bytes.Cut(h[:100], []byte{0})
			switch string(name) {
			case "rafs.blob.toc", "image.boot", "blob.meta", "blob.digest", "image.blob":
				return true
			}
		}
	}
	const chunkHeader, magic = 4096, 0xb10bb10b
	if len(tail) >= chunkHeader {
		h := tail[len(tail)-chunkHeader:]
		return binary.LittleEndian.Uint32(h) == magic && binary.LittleEndian.Uint32(h[chunkHeader-4:]) == magic
	}
	return false
}

var (
	metaName = regexp.MustCompile(`^[0-9a-f]{64}\.blob\.meta$`)
	jsonName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\.json$`)
)

// bootstrapEntry tells which file of a bootstrap layer an entry of that name is: "image.boot", a chunk table's or a JSON
// file's name, or "." for the directory around them. "" means that no bootstrap layer has such an entry.
func bootstrapEntry(name string) string {
	name = path.Clean(name)
	if name == "." || name == "image" {
		return "."
	}
	dir, base := path.Split(name)
	if dir != "" && dir != "image/" {
		return ""
	}
	if base == bootstrapFile || metaName.MatchString(base) || jsonName.MatchString(base) {
		return base
	}
	return ""
}
