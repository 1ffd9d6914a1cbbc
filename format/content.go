// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// OpenBlob opens the object of a blob for reading and tells its size in
// bytes. For a blob with IsSeparate it is called for two objects: with the
// blob itself, and with a Blob whose ID is the hex form of MetaDigest.
type OpenBlob = func(Blob) (io.ReaderAt, int64, error)

// Content reads the files of an image straight from its blobs: every chunk is
// verified, and nothing is cached but the last unit. It is meant for
// tools and tests, and is safe for concurrent use.
type Content struct {
	b    *Bootstrap
	open OpenBlob

	mu    sync.Mutex
	blobs map[uint32]*openBlob
	last  unit
	chunk struct { // the last one verified
		Chunk
		data []byte
	}
}

type openBlob struct {
	r     io.ReaderAt
	size  int64
	table *ChunkTable // nil unless the bootstrap needs it
}

// unit is an inflated unit and where it came from.
type unit struct {
	blob uint32
	off  int64
	data []byte
}

// Content returns a reader of the image's files. open is called once for each
// blob, when it is first needed.
func (b *Bootstrap) Content(open OpenBlob) *Content {
	return &Content{b: b, open: open, blobs: map[uint32]*openBlob{}}
}

// Close closes the blobs that have a method Close.
func (c *Content) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, o := range c.blobs {
		if r, ok := o.r.(io.Closer); ok {
			errs = append(errs, r.Close())
		}
	}
	c.blobs, c.last, c.chunk.data = map[uint32]*openBlob{}, unit{}, nil
	return errors.Join(errs...)
}

// blob opens blob index, with its chunk table if Extent needs it.
func (c *Content) blob(index uint32) (*openBlob, error) {
	if o := c.blobs[index]; o != nil {
		return o, nil
	}
	bl := c.b.blobs[index]
	r, size, err := c.open(bl)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", bl.ID, err)
	}
	o := &openBlob{r: r, size: size}
	if c.b.NeedsMeta(index) {
		if o.table, err = c.table(bl, o); err != nil {
			return nil, err
		}
	}
	c.blobs[index] = o
	return o, nil
}

func (c *Content) table(bl Blob, o *openBlob) (*ChunkTable, error) {
	if !bl.IsSeparate() {
		return ReadChunkTable(o.r, o.size, bl)
	}
	side := bl
	side.ID = hex.EncodeToString(bl.MetaDigest[:])
	r, size, err := c.open(side)
	if err != nil {
		return nil, fmt.Errorf("open chunk infos %s of blob %s: %w", side.ID, bl.ID, err)
	}
	if cl, ok := r.(io.Closer); ok {
		defer cl.Close()
	}
	return ReadChunkTable(r, size, bl)
}

// Chunk returns the verified bytes of a chunk; the caller must not change them.
func (c *Content) Chunk(ch Chunk) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.chunk.data != nil && c.chunk.BlobIndex == ch.BlobIndex && c.chunk.Digest == ch.Digest && c.chunk.UncompressedSize == ch.UncompressedSize {
		return c.chunk.data, nil
	}
	o, err := c.blob(ch.BlobIndex)
	if err != nil {
		return nil, err
	}
	e, err := c.b.Extent(ch, o.table)
	if err != nil {
		return nil, err
	}
	if c.last.data == nil || c.last.blob != ch.BlobIndex || c.last.off != e.Off || int64(len(c.last.data)) != e.InflatedSize {
		data, err := inflateFrom(e, o)
		if err != nil {
			return nil, err
		}
		c.last = unit{ch.BlobIndex, e.Off, data}
	}
	data := c.last.data[e.Skip : e.Skip+int64(ch.UncompressedSize)]
	if err := c.b.Verify(ch, data); err != nil {
		c.last = unit{}
		return nil, err
	}
	c.chunk.Chunk, c.chunk.data = ch, data
	return data, nil
}

// inflateFrom reads and inflates the unit at e.
func inflateFrom(e Extent, o *openBlob) ([]byte, error) {
	stored, err := e.readStored(o.r, o.size, nil)
	if err != nil {
		return nil, err
	}
	return e.Inflate(nil, stored)
}

// readStored reads the stored unit from its blob of size bytes; it uses buf
// if its capacity suffices.
func (e Extent) readStored(r io.ReaderAt, size int64, buf []byte) ([]byte, error) {
	if e.Off > size || e.Size > size-e.Off {
		return nil, e.corrupt(fmt.Errorf("%d bytes do not fit the blob's %d", e.Size, size))
	}
	if int64(cap(buf)) < e.Size {
		buf = make([]byte, e.Size)
	}
	buf = buf[:e.Size]
	if n, err := r.ReadAt(buf, e.Off); n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read %d bytes at offset %d of blob %s: %w", e.Size, e.Off, e.bl.ID, err)
	}
	return buf, nil
}

// ReadAt reads file content like io.ReaderAt: io.EOF at the end of the file.
func (c *Content) ReadAt(i Inode, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	if off >= i.Size {
		return 0, io.EOF
	}
	n := 0
	var failed error
	err := c.b.FileChunks(i, off, int64(len(p)), func(fileOff int64, ch Chunk) bool {
		data, err := c.Chunk(ch)
		if err != nil {
			failed = err
			return false
		}
		n += copy(p[n:], data[off+int64(n)-fileOff:])
		return true
	})
	if failed != nil {
		err = failed
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}
