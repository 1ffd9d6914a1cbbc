// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"slices"

	"lighter/format/internal/disk"
)

const leadInSize = 8 // bytes

// blobWriter writes the parts of a layer blob one behind the other, each with
// a tar header behind it, and remembers them for the table of contents.
type blobWriter struct {
	w    *bufio.Writer
	sum  hash.Hash // SHA-256 of all bytes written
	size int64     // bytes written
	toc  []byte
}

func newBlobWriter(w io.Writer) *blobWriter {
	return &blobWriter{w: bufio.NewWriterSize(w, 256<<10), sum: sha256.New()}
}

func (b *blobWriter) write(p []byte) error {
	b.sum.Write(p)
	b.size += int64(len(p))
	if _, err := b.w.Write(p); err != nil {
		return fmt.Errorf("write blob at %d: %w", b.size, err)
	}
	return nil
}

// sniffed lists what programs recognise a compressed stream by. Docker looks at
// every layer like that, whatever its media type says, and would unpack a blob
// that begins so.
var sniffed = [][]byte{
	{0x1f, 0x8b, 0x08},            // gzip
	[]byte("BZh"),                 // bzip2
	{0xfd, '7', 'z', 'X', 'Z', 0}, // xz
	{0x28, 0xb5, 0x2f, 0xfd},      // zstd
}

// leadIn begins the blob with zero bytes that belong to nothing, if it would
// otherwise begin like a compressed stream. next is what is written next.
func (b *blobWriter) leadIn(next []byte) error {
	begins := func(magic []byte) bool { return bytes.HasPrefix(next, magic) }
	if b.size > 0 || !slices.ContainsFunc(sniffed, begins) && !isSkippable(next) {
		return nil
	}
	return b.write(make([]byte, leadInSize))
}

// isSkippable tells a zstd skippable frame (RFC 8878, 3.1.2).
func isSkippable(p []byte) bool {
	return len(p) >= 4 && binary.LittleEndian.Uint32(p)&^0xf == 0x184d2a50
}

func (b *blobWriter) tarHeader(name string, size int64) error {
	h := disk.TarHeader{Name: name, Size: size}
	return b.write(h.Append(nil))
}

// entry adds a part to the table of contents.
func (b *blobWriter) entry(name string, flags uint32, digest [32]byte, off, stored, size int64) {
	e := disk.TOCEntry{Flags: flags, Digest: digest, Off: uint64(off), Size: uint64(stored), UncompressedSize: uint64(size)}
	copy(e.Name[:], name)
	b.toc = e.Append(b.toc)
}

// tocFlags is how the table of contents says that a part is compressed.
func tocFlags(c Compressor) uint32 {
	switch c {
	case Zstd:
		return disk.TOCZstd
	case LZ4Block:
		return disk.TOCLz4
	}
	return disk.TOCUncompressed
}

// endOfData writes the header behind the chunks. The entry's digest covers
// that header too: this is what the reference builder does.
func (b *blobWriter) endOfData(uncompressed int64) error {
	data := b.size
	if err := b.tarHeader(disk.NameBlobData, data); err != nil {
		return err
	}
	b.entry(disk.NameBlobData, disk.TOCUncompressed, [32]byte(b.sum.Sum(nil)), 0, data, uncompressed)
	return nil
}

// meta writes chunk infos and their header. stored is infos as c packed it.
func (b *blobWriter) meta(infos, stored []byte, c Compressor, h *disk.BlobHeader) error {
	off := b.size
	header := h.Append(nil)
	if err := b.write(stored); err != nil {
		return err
	}
	if err := b.write(header); err != nil {
		return err
	}
	b.entry(disk.NameBlobMeta, tocFlags(c), sha256.Sum256(infos), off, int64(len(stored)), int64(len(infos)))
	size := int64(len(header))
	b.entry(disk.NameMetaHeader, disk.TOCUncompressed, sha256.Sum256(header), off+int64(len(stored)), size, size)
	return b.tarHeader(disk.NameBlobMeta, int64(len(stored))+size)
}

// part writes one part with its entry and header.
func (b *blobWriter) part(name string, content, stored []byte, c Compressor) error {
	if err := b.leadIn(stored); err != nil {
		return err
	}
	b.entry(name, tocFlags(c), sha256.Sum256(content), b.size, int64(len(stored)), int64(len(content)))
	if err := b.write(stored); err != nil {
		return err
	}
	return b.tarHeader(name, int64(len(stored)))
}

// finish writes the table of contents.
func (b *blobWriter) finish() error {
	toc := b.toc
	if err := b.write(toc); err != nil {
		return err
	}
	if err := b.tarHeader(disk.NameTOC, int64(len(toc))); err != nil {
		return err
	}
	return b.flush()
}

// flush hands on what is still buffered, at the end.
func (b *blobWriter) flush() error {
	if err := b.w.Flush(); err != nil {
		return fmt.Errorf("write blob: %w", err)
	}
	return nil
}
