// SPDX-License-Identifier: Apache-2.0

package format

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"lighter/format/internal/disk"
)

// blobs checks all blobs of the image against their names and the bootstrap.
func (c *checker) blobs() error {
	if c.open == nil || c.b.records.first == nil {
		return nil // without an index no chunk is found, which was reported
	}
	for _, bl := range c.b.blobs {
		if err := c.blob(bl); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) blob(bl Blob) error {
	o, err := c.openBlob(bl)
	if err != nil {
		return c.found(err)
	}
	defer closeIf(o.r)
	side, sideSize := o.r, o.size
	if bl.IsSeparate() {
		meta := bl
		meta.ID = hex.EncodeToString(bl.MetaDigest[:])
		s, err := c.openBlob(meta)
		if err != nil {
			return c.found(err)
		}
		defer closeIf(s.r)
		side, sideSize = s.r, s.size
		if !bl.isOwnLayer() {
			if err := c.blobDigest(meta, side, sideSize); err != nil {
				return err
			}
		}
	}
	if err := c.blobDigest(bl, o.r, o.size); err != nil {
		return err
	}
	if err := c.blobSizes(bl, o.size, side, sideSize); err != nil {
		return err
	}
	if bl.v5 {
		if c.o.SkipData {
			return nil
		}
		return c.chunks(bl, o)
	}
	if o.table, err = ReadChunkTable(side, sideSize, bl); err != nil {
		return c.found(err)
	}
	if err := c.chunkInfos(bl, o.table); err != nil {
		return err
	}
	if bl.Features&disk.BlobHasTOC != 0 {
		if err := c.tableOfContents(bl, side, sideSize); err != nil {
			return err
		}
	}
	if c.o.SkipData {
		return nil
	}
	return c.chunks(bl, o)
}

func (c *checker) openBlob(bl Blob) (*openBlob, error) {
	r, size, err := c.open(bl)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", bl.ID, err)
	}
	return &openBlob{r: r, size: size}, nil
}

func closeIf(r io.ReaderAt) {
	if c, ok := r.(io.Closer); ok {
		c.Close()
	}
}

// blobDigest compares the SHA-256 of a whole object with its id. Builders
// that leave the digest array out of the sum when they name a blob with a
// table of contents are believed.
func (c *checker) blobDigest(bl Blob, r io.ReaderAt, size int64) error {
	want, err := hex.DecodeString(bl.ID)
	if err != nil || len(want) != sha256.Size || c.o.SkipData {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
		return fmt.Errorf("read blob %s: %w", bl.ID, err)
	}
	sum := h.Sum(nil)
	if string(sum) == string(want) {
		return nil
	}
	if bl.Features&disk.BlobInlinedDigests != 0 {
		if l, err := readParts(r, size); err == nil {
			if e, ok := l.parts[disk.NameBlobDigest]; ok {
				h.Reset()
				end := int64(e.Off + e.Size)
				if _, err := io.Copy(h, io.MultiReader(io.NewSectionReader(r, 0, int64(e.Off)), io.NewSectionReader(r, end, size-end))); err != nil {
					return fmt.Errorf("read blob %s: %w", bl.ID, err)
				}
				if string(h.Sum(nil)) == string(want) {
					return nil
				}
			}
		}
	}
	return c.violation("blob "+bl.ID, "", -1, "sha256 digest is %x", sum)
}

// blobSizes compares the sizes of the objects with the blob table.
func (c *checker) blobSizes(bl Blob, size int64, side io.ReaderAt, sideSize int64) error {
	off := c.b.blobEntryOff(bl.Index)
	if bl.IsSeparate() {
		if bl.MetaSize != uint64(sideSize) && !bl.isOwnLayer() {
			if err := c.violation("blob table", "meta_size", off+200, "%d, but the object has %d bytes", bl.MetaSize, sideSize); err != nil {
				return err
			}
		}
	} else if bl.MetaDigest != [32]byte{} || bl.MetaSize != 0 {
		if err := c.violation("blob table", "meta_digest", off+168, "set for blob %d, which is one object", bl.Index); err != nil {
			return err
		}
	}
	sizes := []uint64{uint64(size)} // the whole blob, or what lies before an inlined bootstrap
	if !bl.IsSeparate() {
		if l, err := ReadLayerBlob(side, sideSize); err == nil {
			sizes = append(sizes, l.parts[disk.NameBootstrap].Off)
		}
	}
	if at := off + 88; !slices.Contains(sizes, bl.CompressedSize) {
		if bl.v5 {
			at = off + 16
		}
		return c.violation("blob table", "compressed_size", at, "%d, but blob %d has %d bytes", bl.CompressedSize, bl.Index, sizes)
	}
	return nil
}

// chunkInfos checks that every chunk of the chunk table has the same place in
// the blob's own infos, and that the infos of other chunks stay in the blob.
func (c *checker) chunkInfos(bl Blob, t *ChunkTable) error {
	x := &c.b.records
	mine := x.order[x.first[bl.Index]:x.first[bl.Index+1]]
	known, end := 0, int64(0)
	for index := range bl.ChunkCount {
		ch, used := Chunk{}, false
		if known < len(mine) {
			var err error
			if ch, err = c.b.record(mine[known]); err != nil {
				return c.found(err)
			}
			used = ch.Index == index
		}
		if !used {
			info, err := t.info(index)
			if err != nil {
				return c.found(err)
			}
			ch = Chunk{BlobIndex: bl.Index, Index: index, UncompressedOff: int64(info.UncompressedOff), UncompressedSize: info.UncompressedSize,
				compressedOff: int64(info.CompressedOff), compressedSize: info.CompressedSize}
		} else {
			known++
		}
		_, err := c.b.Extent(ch, t)
		if err == nil && used {
			err = c.recordInfo(ch, t)
		}
		if err := c.found(err); err != nil {
			return err
		}
		end = max(end, ch.UncompressedOff+int64(ch.UncompressedSize))
	}
	if end = (end + disk.Alignment - 1) &^ (disk.Alignment - 1); uint64(end) != bl.UncompressedSize {
		off := c.b.blobEntryOff(bl.Index)
		return c.violation("blob table", "uncompressed_size", off+96, "%d, but the chunks of blob %d end at %d", bl.UncompressedSize, bl.Index, end)
	}
	return nil
}

// recordInfo compares what a record says of the stored chunk with the blob's
// own info, also where it is only informative.
func (c *checker) recordInfo(ch Chunk, t *ChunkTable) error {
	x, err := t.info(ch.Index)
	if err != nil {
		return err
	}
	compressed := x.Flags&disk.InfoCompressed != 0
	off, size := int64(x.CompressedOff), x.CompressedSize
	switch {
	case x.Flags&disk.InfoBatch != 0:
		off, size, compressed = 0, 0, false
	case x.Flags&disk.InfoZran != 0:
		size = ch.compressedSize
	}
	if ch.compressedOff != off || ch.compressedSize != size || compressed != (ch.flags&disk.RecordCompressed != 0) {
		at := c.b.recordOff(ch.record) + 36
		return corrupt("chunk table", "flags", at, "%#x, %d bytes at %d, but the chunk info of chunk %d of blob %s has flags %#x, %d at %d",
			ch.flags, ch.compressedSize, ch.compressedOff, ch.Index, t.bl.ID, x.Flags, x.CompressedSize, x.CompressedOff)
	}
	return nil
}

// tableOfContents checks the parts of a layer blob by their digests, and its
// digest array against the chunk table.
func (c *checker) tableOfContents(bl Blob, r io.ReaderAt, size int64) error {
	l, err := readParts(r, size)
	if err == nil && bl.TOCSize != 0 {
		if sum, n, err := l.tocDigest(); err != nil || n != int64(bl.TOCSize) || sum != bl.TOCDigest {
			off := c.b.blobEntryOff(bl.Index)
			if err := c.violation("blob table", "toc_digest", off+136, "%d bytes, but blob %d has %d with sha256 digest %x", bl.TOCSize, bl.Index, n, sum); err != nil {
				return err
			}
		}
	}
	if err != nil {
		var v *Error
		if errors.As(err, &v) && bl.Features&disk.BlobInlinedMeta == 0 && bl.TOCSize == 0 {
			return nil // nothing but the feature bit speaks of a table
		}
		return c.found(err)
	}
	for _, name := range []string{disk.NameBlobMeta, disk.NameMetaHeader, disk.NameBlobDigest, disk.NameBootstrap} {
		if _, ok := l.parts[name]; !ok || bl.cipher != nil && (name == disk.NameBlobMeta || name == disk.NameMetaHeader) {
			continue // the chunk infos of an encrypted blob are encrypted, too
		}
		p, err := l.part(name)
		if err != nil {
			if err := c.found(err); err != nil {
				return err
			}
			continue
		}
		if name == disk.NameBlobDigest {
			if err := c.digestArray(bl, p, int64(l.parts[name].Off)); err != nil {
				return err
			}
		}
	}
	return nil
}

// digestArray compares a blob's digest array, which lies at off, with the
// chunk table.
func (c *checker) digestArray(bl Blob, p []byte, off int64) error {
	if len(p) != int(bl.ChunkCount)*32 {
		return c.violation("blob "+bl.ID, disk.NameBlobDigest, off, "%d bytes for %d chunks", len(p), bl.ChunkCount)
	}
	x := &c.b.records
	for _, n := range x.order[x.first[bl.Index]:x.first[bl.Index+1]] {
		ch, err := c.b.record(n)
		if err != nil {
			return c.found(err)
		}
		if string(p[ch.Index*32:][:32]) != string(ch.Digest[:]) {
			if err := c.violation("blob "+bl.ID, disk.NameBlobDigest, off+int64(ch.Index)*32, "another digest of chunk %d than the bootstrap", ch.Index); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunkRun is how many chunks a worker takes at once: neighbours share units.
const chunkRun = 16

// chunks verifies the digest of every chunk that the bootstrap has of a blob.
func (c *checker) chunks(bl Blob, o *openBlob) error {
	x := &c.b.records
	mine := x.order[x.first[bl.Index]:x.first[bl.Index+1]]
	workers := c.o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var next atomic.Int64
	var mu sync.Mutex // of c and fatal
	var fatal error
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var stored []byte
			var last Extent
			var data []byte
			for {
				at := int(next.Add(chunkRun)) - chunkRun
				if at >= len(mine) {
					return
				}
				for _, n := range mine[at:min(at+chunkRun, len(mine))] {
					size, err := c.verifyChunk(n, o, &stored, &last, &data)
					mu.Lock()
					if err != nil {
						err = c.found(err)
						last = Extent{}
					} else {
						c.report.Verified++
						c.report.Bytes += size
					}
					if fatal == nil {
						fatal = err
					}
					stop := fatal != nil
					mu.Unlock()
					if stop {
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return fatal
}

// verifyChunk reads and verifies the chunk of record n. stored, last and data
// are a worker's: buffer, and the unit that it inflated last.
func (c *checker) verifyChunk(n uint32, o *openBlob, stored *[]byte, last *Extent, data *[]byte) (size uint64, err error) {
	ch, err := c.b.record(n)
	if err != nil {
		return 0, err
	}
	e, err := c.b.Extent(ch, o.table)
	if err != nil {
		return 0, err
	}
	if last.bl == nil || last.Off != e.Off || last.Size != e.Size || last.InflatedSize != e.InflatedSize {
		if *stored, err = e.readStored(o.r, o.size, *stored); err != nil {
			return 0, err
		}
		if *data, err = e.Inflate(*data, *stored); err != nil {
			return 0, err
		}
		*last = e
	}
	p := (*data)[e.Skip : e.Skip+int64(ch.UncompressedSize)]
	if err := c.b.Verify(ch, p); err != nil {
		return 0, err
	}
	if sum := crc32.Checksum(p, castagnoli); ch.flags&disk.RecordCRC32C != 0 && sum != ch.crc {
		return 0, corrupt("chunk table", "crc32c", c.b.recordOff(n)+76, "%#x, but the chunk has %#x", ch.crc, sum)
	}
	return uint64(len(p)), nil
}
