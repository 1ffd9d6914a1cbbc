// SPDX-License-Identifier: Apache-2.0

package format

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"lighter/format/internal/disk"
)

// Limits of what this package believes of an image.
const (
	minChunkSize = 0x1000
	maxChunkSize = disk.MaxChunkSize
	maxSymlink   = 4095 // bytes, Linux PATH_MAX − 1
)

// Bootstrap is the metadata of one image: an EROFS superblock with the
// extensions, tables and inodes of RAFS v6, or the older layout of RAFS v5. It
// is immutable and safe for
// concurrent use. Everything but the blob table stays in the reader given to
// Open; each access is checked against the file's size.
type Bootstrap struct {
	r    io.ReaderAt
	mem  []byte // whole file, when r can give it without copying
	size int64

	info    Info
	blk     int64 // block size in bytes
	blkBits uint
	metaOff int64 // where nid 0 would be, in bytes
	sb      disk.Superblock
	ext     disk.ExtSuperblock // RAFS v5: flags and chunk size only
	v5      *disk.V5Superblock // nil: RAFS v6
	blobs   []Blob

	records recordIndex
}

// Info is what the superblock says of the whole image.
type Info struct {
	Version    int    // 6 or 5
	Size       int64  // of the bootstrap in bytes
	BlockSize  uint32 // bytes
	ChunkSize  uint32 // bytes
	Flags      uint64 // as in the RAFS v6 extended superblock or the RAFS v5 superblock
	Digester   Digester
	Compressor Compressor // informational: each blob has its own
	Inodes     uint64     // tree entries, each name of a hard link counted
	RootNid    uint64
	Chunks     uint64 // records of the chunk table; RAFS v5: chunks of all blobs
}

// Open checks the superblock and the tables of a RAFS v6 or v5 bootstrap and
// returns it. r must give the same size bytes as long as the Bootstrap is
// used. If r has a method Bytes() []byte that returns them, they are used in
// place. Errors wrap ErrCorrupt or ErrUnsupported, or are those of r.
func Open(r io.ReaderAt, size int64) (*Bootstrap, error) {
	b := &Bootstrap{r: r, size: size}
	if m, ok := r.(interface{ Bytes() []byte }); ok {
		if p := m.Bytes(); int64(len(p)) >= size && size >= 0 {
			b.mem = p[:size:size]
		}
	}
	if err := b.load(); err != nil {
		return nil, err
	}
	return b, nil
}

// OpenBytes is Open on a bootstrap in memory, such as a mapped file. p must
// not change as long as the Bootstrap is used.
func OpenBytes(p []byte) (*Bootstrap, error) {
	b := &Bootstrap{mem: p[:len(p):len(p)], size: int64(len(p))}
	if err := b.load(); err != nil {
		return nil, err
	}
	return b, nil
}

// IsBootstrap reports whether a file that begins with head (4096 bytes are
// enough) is a RAFS bootstrap, of version 6 or 5.
func IsBootstrap(head []byte) bool {
	return isOld(head) && le.Uint32(head[4:]) == disk.V5Version || isV6(head)
}

// isOld tells RAFS v5, and v4, which is not read.
func isOld(head []byte) bool {
	return len(head) >= 8 && le.Uint32(head) == disk.V5Magic
}

func isV6(head []byte) bool {
	if len(head) < disk.SuperblockOff+disk.SuperblockSize {
		return false
	}
	var sb disk.Superblock
	sb.Decode(head[disk.SuperblockOff:])
	return sb.Magic == disk.Magic && sb.FeatureCompat&disk.FeatureCompat != 0
}

// Info returns what the superblock says.
func (b *Bootstrap) Info() Info { return b.info }

// Blobs returns the blob table in index order. The caller must not change it.
func (b *Bootstrap) Blobs() []Blob { return b.blobs }

// view returns n bytes at off of the file, in place where that is possible.
// The caller must not change them. It is the one range check of the package.
func (b *Bootstrap) view(structure string, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off > b.size-n {
		return nil, corrupt(structure, "", off, "%d bytes do not fit the bootstrap of %d bytes", n, b.size)
	}
	if b.mem != nil {
		return b.mem[off : off+n : off+n], nil
	}
	p := make([]byte, n)
	if m, err := b.r.ReadAt(p, off); int64(m) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read %s at offset %d of the bootstrap: %w", structure, off, err)
	}
	return p, nil
}

// recordIndex finds chunk records by blob and chunk number; it
// is built at first use.
type recordIndex struct {
	once  sync.Once
	order []uint32 // records as for recordOff, sorted by (blob, chunk number)
	first []uint32 // for each blob, where in order its records begin; one more at the end
	err   error
}
