// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"lighter/format"
)

// maxMeta is the longest .blob.meta file that is read: 2^24 chunks of 24 bytes,
// and as much again for batch or zran contexts.
const maxMeta = 1 << 30

// chunkTable returns the blob's own chunk table if its extents need one, from
// MetaDir or else from the store.
func (b *blob) chunkTable(ctx context.Context) (*format.ChunkTable, error) {
	if !b.im.boot.NeedsMeta(b.info.Index) {
		return nil, nil
	}
	select {
	case b.loading <- struct{}{}:
		defer func() { <-b.loading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	b.mu.Lock()
	t, noLocal := b.table, b.noLocal
	b.mu.Unlock()
	if t != nil {
		return t, nil
	}
	var err error
	if !noLocal {
		t, err = b.localTable()
	}
	if err != nil {
		b.im.store.o.Logger.Warn("chunk table beside the bootstrap is of no use", "blob", b.info.ID, "err", err)
	}
	if t == nil {
		if t, err = b.remoteTable(ctx); err != nil {
			return nil, fmt.Errorf("chunk table: %w", err)
		}
	}
	b.mu.Lock()
	b.table = t
	b.mu.Unlock()
	return t, nil
}

// distrustTable makes the next fetch take the chunk table from the store, after
// one from elsewhere led to wrong bytes.
func (b *blob) distrustTable() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.noLocal {
		b.noLocal, b.table = true, nil
	}
}

var hexID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// localTable returns nil without an error if there is no file.
func (b *blob) localTable() (*format.ChunkTable, error) {
	id := b.info.ID
	if b.info.IsSeparate() {
		id = hex.EncodeToString(b.info.MetaDigest[:])
	}
	if b.im.spec.MetaDir == "" || !hexID.MatchString(id) {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(b.im.spec.MetaDir, id+".blob.meta"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	meta, err := io.ReadAll(io.LimitReader(f, maxMeta))
	if err != nil {
		return nil, err
	}
	return format.ParseChunkTable(meta, b.info)
}

func (b *blob) remoteTable(ctx context.Context) (*format.ChunkTable, error) {
	if b.info.IsSeparate() {
		return b.separateTable(ctx)
	}
	src, err := b.source(ctx)
	if err != nil {
		return nil, err
	}
	defer src.done()
	t, err := format.ReadChunkTable(sourceReader{ctx, b.im.store, src}, src.Size(), b.info)
	if err != nil && !errors.Is(err, format.ErrCorrupt) {
		b.forget(src)
	}
	return t, err
}

// separateTable fetches the table from the object that holds it when the data
// is somebody else's archive.
func (b *blob) separateTable(ctx context.Context) (*format.ChunkTable, error) {
	id := hex.EncodeToString(b.info.MetaDigest[:])
	src, err := b.im.spec.Opener.Open(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", id, err)
	}
	if c, ok := src.(io.Closer); ok {
		defer c.Close()
	}
	return format.ReadChunkTable(sourceReader{ctx, b.im.store, src}, src.Size(), b.info)
}

// sourceReader is a Source as an io.ReaderAt, for one call.
type sourceReader struct {
	ctx   context.Context
	store *Store
	src   Source
}

func (r sourceReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.src.ReadAt(r.ctx, p, off)
	r.store.count.requests.Add(1)
	r.store.count.bytes.Add(int64(n))
	return n, err
}
