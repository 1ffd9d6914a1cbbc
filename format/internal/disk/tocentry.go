// SPDX-License-Identifier: Apache-2.0

package disk

// TOCEntrySize is the size of TOCEntry in bytes.
const TOCEntrySize = 128

// Values of TOCEntry.Flags; exactly one is set.
const (
	TOCUncompressed = 0x1
	TOCZstd         = 0x2
	TOCLz4          = 0x4
)

// Names of the entries of a table of contents, in the order of the blob, and
// of the tar header behind the table itself. The header of the chunk infos
// has an entry of its own but shares the tar header of blob.meta.
const (
	NameBlobData   = "image.blob"
	NameBlobMeta   = "blob.meta"
	NameMetaHeader = "blob.meta.header"
	NameBlobDigest = "blob.digest"
	NameBootstrap  = "image.boot"
	NameTOC        = "rafs.blob.toc"
)

// TOCEntry is one entry of a blob's table of contents. Its 48 reserved bytes
// are written as zero; older builders left garbage there.
type TOCEntry struct {
	Flags            uint32 // TOC… value
	Name             [16]byte
	Digest           [32]byte // SHA-256 of the uncompressed content
	Off              uint64   // in the blob
	Size             uint64   // as stored
	UncompressedSize uint64
}

// Decode fills e from b[:TOCEntrySize].
func (e *TOCEntry) Decode(b []byte) {
	_ = b[TOCEntrySize-1]
	e.Flags = le.Uint32(b[0:])
	copy(e.Name[:], b[8:24])
	copy(e.Digest[:], b[24:56])
	e.Off = le.Uint64(b[56:])
	e.Size = le.Uint64(b[64:])
	e.UncompressedSize = le.Uint64(b[72:])
}

// Append appends the TOCEntrySize bytes of e to b.
func (e *TOCEntry) Append(b []byte) []byte {
	b = le.AppendUint32(b, e.Flags)
	b = le.AppendUint32(b, 0)
	b = append(b, e.Name[:]...)
	b = append(b, e.Digest[:]...)
	b = le.AppendUint64(b, e.Off)
	b = le.AppendUint64(b, e.Size)
	b = le.AppendUint64(b, e.UncompressedSize)
	return zeros(b, 48)
}
