// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"lighter/format"
	"lighter/lazyfs/cache"
)

type (
	claimTable = cache.Claims[chunkKey, []byte]
	claim      = cache.Claim[chunkKey, []byte]
	work       = cache.Work[chunkKey, []byte]
)

// maxRead is how much of a large ReadAt is under way at a time, in bytes.
const maxRead = 16 << 20

// ReadAt fills p with the bytes of the regular file ino from byte off, all of
// them verified. It returns less only at the end of the file, with io.EOF, or
// with an error: see ChunkError. It ends when ctx does, and after
// StoreOptions.ReadTimeout in any case.
func (im *Image) ReadAt(ctx context.Context, ino format.Inode, p []byte, off int64) (n int, err error) {
	c := &im.store.count
	c.reads.Add(1)
	defer func() {
		c.readBytes.Add(int64(n))
		if err != nil && err != io.EOF {
			c.readErrors.Add(1)
			if errors.Is(err, context.DeadlineExceeded) {
				c.timeouts.Add(1)
			}
		}
	}()
	if !im.enter() {
		return 0, fmt.Errorf("image: %w", ErrClosed)
	}
	defer im.work.Done()
	if off < 0 {
		return 0, fmt.Errorf("read at offset %d", off)
	}
	if off >= ino.Size {
		return 0, io.EOF
	}
	var eof error
	if rest := ino.Size - off; int64(len(p)) > rest {
		p, eof = p[:rest], io.EOF
	}
	d := deadline{ctx: ctx, after: im.store.o.ReadTimeout}
	defer d.end()
	for n < len(p) {
		q := p[n:min(len(p), n+maxRead)]
		if err := im.readPart(&d, ino, q, off+int64(n)); err != nil {
			return n, err
		}
		n += len(q)
	}
	return n, eof
}

// deadline is a context with a timeout that begins when it is first needed:
// most reads are answered from memory and need none.
type deadline struct {
	ctx    context.Context
	after  time.Duration
	cancel context.CancelFunc
}

func (d *deadline) start() context.Context {
	if d.cancel == nil {
		d.ctx, d.cancel = context.WithTimeout(d.ctx, d.after)
	}
	return d.ctx
}

func (d *deadline) end() {
	if d.cancel != nil {
		d.cancel()
	}
}

// readPart fills p completely or fails.
func (im *Image) readPart(d *deadline, ino format.Inode, p []byte, off int64) error {
	wants, err := im.wants(ino, off, int64(len(p)))
	if err != nil {
		return err
	}
	missed := false
	for _, w := range wants {
		if w.data = im.store.memory.get(w.key); w.data != nil {
			im.store.count.memoryHits.Add(1)
		} else {
			missed = true
		}
	}
	if missed {
		if err := im.get(d.start(), wants); err != nil {
			return err
		}
	}
	im.readAhead(ino, off, int64(len(p)))
	for _, w := range wants {
		copyRange(p, off, w.data, w.fileOff)
	}
	return nil
}

// copyRange copies the part of a chunk, which begins at byte chunkOff of the
// file, that lies within p, which begins at off.
func copyRange(p []byte, off int64, chunk []byte, chunkOff int64) {
	if chunkOff < off {
		chunk, chunkOff = chunk[off-chunkOff:], off
	}
	copy(p[chunkOff-off:], chunk)
}

// wants lists the chunks of a file range, and checks that they cover it.
func (im *Image) wants(ino format.Inode, off, n int64) ([]*want, error) {
	var wants []*want
	var bad error
	next := off
	err := im.boot.FileChunks(ino, off, n, func(fileOff int64, c format.Chunk) bool {
		if fileOff > next || fileOff+int64(c.UncompressedSize) <= next || int(c.BlobIndex) >= len(im.blobs) {
			bad = fmt.Errorf("inode %d: %w: chunk of %d bytes at file offset %d where %d was due", ino.Nid, format.ErrCorrupt, c.UncompressedSize, fileOff, next)
			return false
		}
		wants = append(wants, im.want(c, fileOff))
		next = fileOff + int64(c.UncompressedSize)
		return true
	})
	if err == nil {
		err = bad
	}
	if err == nil && next < off+n {
		err = fmt.Errorf("inode %d: %w: no chunk at file offset %d", ino.Nid, format.ErrCorrupt, next)
	}
	return wants, err
}

func (im *Image) want(c format.Chunk, fileOff int64) *want {
	b := im.blobs[c.BlobIndex]
	return &want{blob: b, chunk: c, key: chunkKey{c.Digest, c.UncompressedSize, b.info.Digester}, fileOff: fileOff}
}
