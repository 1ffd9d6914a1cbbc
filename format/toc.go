// SPDX-License-Identifier: Apache-2.0

package format

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"lighter/format/internal/disk"
)

// Limits of what a layer blob may make of its reader's memory.
const (
	maxBootstrap         = 1 << 30 // bytes, inflated
	maxBootstrapRatio    = 1024
	freeBootstrap        = 1 << 20 // bytes that any ratio may give
	maxTOC               = 4096 - disk.TarHeaderSize
	maxTarHeadersWalked  = 16
	layerBlobTailMinimum = disk.TarHeaderSize
)

// LayerBlob is a layer of an image with its own bootstrap inside: the data
// blob of a converter. It is immutable and safe for concurrent use.
type LayerBlob struct {
	HasData bool // false: the layer has no file data, only a bootstrap
	HasTOC  bool

	r     io.ReaderAt
	size  int64
	parts map[string]disk.TOCEntry
}

// IsLayerBlob reports whether a file that ends with tail (512 bytes are
// enough) is a layer blob. An ordinary tar file ends with zeros and is not.
func IsLayerBlob(tail []byte) bool {
	if len(tail) < layerBlobTailMinimum {
		return false
	}
	var h disk.TarHeader
	if !h.Decode(tail[len(tail)-disk.TarHeaderSize:]) {
		return false
	}
	return h.Name == disk.NameTOC || h.Name == disk.NameBootstrap
}

// ReadLayerBlob finds the parts of a layer blob by its table of contents, or
// where there is none, by the tar headers behind the parts.
func ReadLayerBlob(r io.ReaderAt, size int64) (*LayerBlob, error) {
	l, err := readParts(r, size)
	if err != nil {
		return nil, err
	}
	if _, ok := l.parts[disk.NameBootstrap]; !ok {
		return nil, corrupt("layer blob", "", size, "no part %s", disk.NameBootstrap)
	}
	return l, nil
}

// readParts is ReadLayerBlob for any blob with parts: one whose bootstrap is a
// file of its own has none of it.
func readParts(r io.ReaderAt, size int64) (*LayerBlob, error) {
	l := &LayerBlob{r: r, size: size, parts: map[string]disk.TOCEntry{}}
	h, err := l.tarHeader(size)
	if err != nil {
		return nil, err
	}
	if h.Name == disk.NameTOC {
		err = l.readTOC(h)
	} else {
		err = l.walkHeaders()
	}
	if err != nil {
		return nil, err
	}
	_, l.HasData = l.parts[disk.NameBlobMeta]
	if _, ok := l.parts[disk.NameBlobData]; ok {
		l.HasData = true
	}
	return l, nil
}

// tarHeader reads the header that ends at byte end.
func (l *LayerBlob) tarHeader(end int64) (disk.TarHeader, error) {
	var h disk.TarHeader
	if end < disk.TarHeaderSize {
		return h, corrupt("layer blob", "tar header", max(end, 0), "no room for one")
	}
	p, err := l.read("tar header", end-disk.TarHeaderSize, disk.TarHeaderSize)
	if err != nil {
		return h, err
	}
	if !h.Decode(p) {
		return h, corrupt("layer blob", "tar header", end-disk.TarHeaderSize, "none is there")
	}
	if h.Size > end-disk.TarHeaderSize {
		return h, corrupt("layer blob", "tar header", end-disk.TarHeaderSize, "%d bytes before it, %s has %d", end-disk.TarHeaderSize, h.Name, h.Size)
	}
	return h, nil
}

// readTOC reads the table of contents, whose tar header is the blob's last.
func (l *LayerBlob) readTOC(h disk.TarHeader) error {
	if h.Size == 0 || h.Size%disk.TOCEntrySize != 0 || h.Size > maxTOC {
		return corrupt("table of contents", "size", l.size-disk.TarHeaderSize, "%d bytes", h.Size)
	}
	begin := l.size - disk.TarHeaderSize - h.Size
	p, err := l.read("table of contents", begin, h.Size)
	if err != nil {
		return err
	}
	l.HasTOC = true
	for at := int64(0); at < h.Size; at += disk.TOCEntrySize {
		var e disk.TOCEntry
		e.Decode(p[at:])
		name := disk.CString(e.Name[:])
		if name == disk.NameBlobData && (e.Off > uint64(begin) || e.Size > uint64(begin)-e.Off) {
			continue // of a reference: the data is elsewhere, and builders before 2.3 say so like this
		}
		bad := func(field string, pos int64, detail string, args ...any) error {
			return corrupt("table of contents", field, begin+at+pos, detail, args...)
		}
		switch {
		case name == "":
			return bad("name", 8, "is empty")
		case e.Flags != disk.TOCUncompressed && e.Flags != disk.TOCZstd && e.Flags != disk.TOCLz4:
			return bad("flags", 0, "%#x does not name one compressor", e.Flags)
		case e.Off > uint64(begin) || e.Size > uint64(begin)-e.Off:
			return bad("offset", 56, "%s: %d bytes at %d of %d", name, e.Size, e.Off, begin)
		case e.Flags == disk.TOCUncompressed && e.Size != e.UncompressedSize && name != disk.NameBlobData:
			return bad("size", 64, "%s: %d bytes stored, %d inflated", name, e.Size, e.UncompressedSize)
		}
		if _, dup := l.parts[name]; dup {
			return bad("name", 8, "%s occurs twice", name)
		}
		l.parts[name] = e
	}
	return nil
}

// walkHeaders finds the parts from the end to the beginning.
func (l *LayerBlob) walkHeaders() error {
	end := l.size
	for range maxTarHeadersWalked {
		h, err := l.tarHeader(end)
		if err != nil {
			if len(l.parts) > 0 && errors.Is(err, ErrCorrupt) {
				return nil // what begins the blob need not have a header
			}
			return err
		}
		e := disk.TOCEntry{Flags: disk.TOCUncompressed, Off: uint64(end - disk.TarHeaderSize - h.Size), Size: uint64(h.Size), UncompressedSize: uint64(h.Size)}
		if _, dup := l.parts[h.Name]; dup {
			return corrupt("layer blob", "tar header", end-disk.TarHeaderSize, "%s occurs twice", h.Name)
		}
		l.parts[h.Name] = e
		if end = int64(e.Off); end == 0 {
			return nil
		}
	}
	return corrupt("layer blob", "tar header", end, "more than %d parts", maxTarHeadersWalked)
}

// Bootstrap returns the layer's own bootstrap, inflated, and checked by the
// table of contents if there is one. Its blob id is PlaceholderID.
func (l *LayerBlob) Bootstrap() ([]byte, error) {
	return l.part(disk.NameBootstrap)
}

// part returns the inflated content of a part.
func (l *LayerBlob) part(name string) ([]byte, error) {
	e, ok := l.parts[name]
	if !ok {
		return nil, corrupt("layer blob", "", -1, "no part %s", name)
	}
	off := int64(e.Off)
	if e.Size > maxBootstrap || e.UncompressedSize > maxBootstrap || e.UncompressedSize > freeBootstrap+e.Size*maxBootstrapRatio {
		return nil, corrupt("layer blob", name, off, "%d bytes out of %d are above the limit", e.UncompressedSize, e.Size)
	}
	stored, err := l.read(name, off, int64(e.Size))
	if err != nil {
		return nil, err
	}
	p := stored
	if c := tocCompressor(e.Flags); c != None {
		p = make([]byte, e.UncompressedSize)
		if err := c.decode(p, stored); err != nil {
			return nil, &Error{Structure: "layer blob", Field: name, Offset: off, Err: ErrCorrupt, Cause: err}
		}
	}
	if l.HasTOC {
		if sum := sha256.Sum256(p); sum != e.Digest {
			return nil, corrupt("layer blob", name, off, "sha256 digest is %s, want %s", hex.EncodeToString(sum[:]), hex.EncodeToString(e.Digest[:]))
		}
	}
	return p, nil
}

// tocCompressor is the codec that a TOC entry's flags name.
func tocCompressor(flags uint32) Compressor {
	switch flags {
	case disk.TOCZstd:
		return Zstd
	case disk.TOCLz4:
		return LZ4Block
	}
	return None
}

// read returns n bytes at off of the blob.
func (l *LayerBlob) read(what string, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > l.size-n {
		return nil, corrupt("layer blob", what, off, "%d bytes do not fit %d bytes", n, l.size)
	}
	p := make([]byte, n)
	if m, err := l.r.ReadAt(p, off); int64(m) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read %s at offset %d of the layer blob: %w", what, off, err)
	}
	return p, nil
}

// tocDigest returns digest and size of the table of contents with its tar
// header, as the blob table has them.
func (l *LayerBlob) tocDigest() (sum [32]byte, n int64, err error) {
	h, err := l.tarHeader(l.size)
	if err != nil || !l.HasTOC {
		return sum, 0, err
	}
	n = h.Size + disk.TarHeaderSize
	p, err := l.read("table of contents", l.size-n, n)
	return sha256.Sum256(p), n, err
}

// Meta returns the blob's chunk infos in the form of an image/<hex>.blob.meta
// file, for ParseChunkTable; nil if the layer has no chunks or no table of
// contents.
func (l *LayerBlob) Meta() ([]byte, error) {
	if _, ok := l.parts[disk.NameBlobMeta]; !ok || !l.HasTOC {
		return nil, nil
	}
	infos, err := l.part(disk.NameBlobMeta)
	if err != nil {
		return nil, err
	}
	header, err := l.part(disk.NameMetaHeader)
	if err != nil {
		return nil, err
	}
	if len(header) != disk.BlobHeaderSize {
		return nil, corrupt("layer blob", disk.NameMetaHeader, -1, "%d bytes", len(header))
	}
	pad := -len(infos) & (disk.Alignment - 1)
	return append(append(infos, make([]byte, pad)...), header...), nil
}
