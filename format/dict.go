// SPDX-License-Identifier: Apache-2.0

package format

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"lighter/format/internal/disk"
)

// ChunkDict is a chunk dictionary: chunks of existing images that new layers
// may refer to, instead of holding them again. It is immutable and safe for
// concurrent use.
type ChunkDict struct {
	version   int
	chunkSize uint32
	blobs     []disk.BlobEntry
	chunks    map[chunkKey]disk.ChunkRecord // BlobIndex is an index of blobs
	digesters []Digester                    // by blob
}

// NewChunkDict makes a dictionary of all chunks of the images, of which those
// that come first are preferred. They must agree in RAFS version and chunk
// size. Their blobs must have ids, which a single layer's own bootstrap lacks.
func NewChunkDict(images ...*Bootstrap) (*ChunkDict, error) {
	d := &ChunkDict{chunks: map[chunkKey]disk.ChunkRecord{}}
	byID := map[string]uint32{}
	for k, b := range images {
		info := b.Info()
		if k == 0 {
			d.version, d.chunkSize = info.Version, info.ChunkSize
		}
		if err := d.fits(info.Version, info.ChunkSize); err != nil {
			return nil, fmt.Errorf("chunk dictionary of several images: %w", err)
		}
		if err := d.add(b, byID); err != nil {
			return nil, fmt.Errorf("chunk dictionary: %w", err)
		}
	}
	return d, nil
}

// ID tells dictionaries apart: those that give a layer other bytes have others.
func (d *ChunkDict) ID() string {
	h := sha256.New()
	for _, r := range d.records() {
		h.Write(d.blobs[r.BlobIndex].ID[:])
		h.Write(r.Append(nil))
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// records returns the chunks in the order of blobs and their numbers.
func (d *ChunkDict) records() []disk.ChunkRecord {
	return slices.SortedFunc(maps.Values(d.chunks), func(a, b disk.ChunkRecord) int {
		return cmp.Or(cmp.Compare(a.BlobIndex, b.BlobIndex), cmp.Compare(a.Index, b.Index))
	})
}

// Len is the number of chunks in the dictionary.
func (d *ChunkDict) Len() int { return len(d.chunks) }

// fits says why a layer cannot use the dictionary.
func (d *ChunkDict) fits(version int, chunkSize uint32) error {
	switch {
	case d.version != version:
		return fmt.Errorf("the chunk dictionary is RAFS v%d, the image v%d", d.version, version)
	case d.chunkSize != chunkSize:
		return fmt.Errorf("the chunk dictionary has chunks of %d bytes, the image of %d", d.chunkSize, chunkSize)
	}
	return nil
}

// add takes over the chunks of an image whose contents are not there yet.
func (d *ChunkDict) add(b *Bootstrap, byID map[string]uint32) error {
	index := make([]uint32, len(b.blobs))
	for i := range b.blobs {
		e, err := b.blobEntry(i)
		if err != nil {
			return err
		}
		id := disk.CString(e.ID[:])
		if id == PlaceholderID || b.blobs[i].isOwnLayer() {
			return unsupported("blob table", "blob_id", b.blobEntryOff(uint32(i)), "bootstrap of a single layer, which does not know its blob's id")
		}
		e.Features &^= disk.BlobInlinedMeta
		k, found := byID[id]
		if !found {
			k = uint32(len(d.blobs))
			byID[id] = k
			d.blobs = append(d.blobs, e)
			d.digesters = append(d.digesters, b.blobs[i].Digester)
		}
		index[i] = k
	}
	b.records.once.Do(func() { b.records.err = b.buildIndex() })
	if b.records.err != nil {
		return b.records.err
	}
	for _, n := range b.records.order {
		c, err := b.record(n)
		if err != nil {
			return err
		}
		key := chunkKey{c.Digest, int(c.UncompressedSize)}
		if _, found := d.chunks[key]; !found {
			r := c.diskRecord()
			r.BlobIndex = index[c.BlobIndex]
			d.chunks[key] = r
		}
	}
	return nil
}

// find returns the chunk with that content.
func (d *ChunkDict) find(k chunkKey, by Digester) (disk.ChunkRecord, bool) {
	if d == nil {
		return disk.ChunkRecord{}, false
	}
	r, found := d.chunks[k]
	return r, found && d.digesters[r.BlobIndex] == by
}

// diskRecord is the chunk as a record of a bootstrap.
func (c *Chunk) diskRecord() disk.ChunkRecord {
	crc := c.crc
	if c.flags&disk.RecordCRC32C == 0 {
		crc = 0 // what the flag declares invalid isn't passed on
	}
	return disk.ChunkRecord{
		Digest: c.Digest, BlobIndex: c.BlobIndex, Flags: c.flags, Index: c.Index, CRC32C: crc,
		CompressedOff: uint64(c.compressedOff), CompressedSize: c.compressedSize,
		UncompressedOff: uint64(c.UncompressedOff), UncompressedSize: c.UncompressedSize,
	}
}

// blobEntry returns entry i of the blob table. What the one of RAFS v5 lacks is
// filled in.
func (b *Bootstrap) blobEntry(i int) (e disk.BlobEntry, err error) {
	bl := &b.blobs[i]
	if b.v5 != nil {
		e = disk.BlobEntry{
			ChunkSize: bl.ChunkSize, ChunkCount: bl.ChunkCount, Features: bl.Features,
			Compressor: uint32(bl.Compressor), Digester: uint32(bl.Digester),
			CompressedSize: bl.CompressedSize, UncompressedSize: bl.UncompressedSize,
		}
		copy(e.ID[:], bl.ID)
		return e, nil
	}
	p, err := b.view("blob table", b.blobEntryOff(uint32(i)), disk.BlobEntrySize)
	if err == nil {
		e.Decode(p)
		e.Index = 0
	}
	return e, err
}

// Encode returns a bootstrap with the dictionary's chunks, in the form of an
// image: a file of one chunk for each, in a directory for each blob. The same
// images give the same bytes.
func (d *ChunkDict) Encode() ([]byte, error) {
	t := newTree(d.chunkSize)
	for k := range d.blobs {
		t.root.children[disk.CString(d.blobs[k].ID[:])] = newDir(0o755)
	}
	order := map[uint32]uint32{} // blob of the dictionary → of the tree
	for _, r := range d.records() {
		e := &d.blobs[r.BlobIndex]
		k, used := order[r.BlobIndex]
		if !used {
			k = uint32(len(t.blobs))
			order[r.BlobIndex] = k
			t.blobs = append(t.blobs, *e)
		}
		r.BlobIndex = k
		n := &node{mode: ModeRegular | 0o444, size: int64(r.UncompressedSize), chunks: []uint32{uint32(len(t.chunks))}}
		t.chunks = append(t.chunks, r)
		t.root.children[disk.CString(e.ID[:])].children[fmt.Sprintf("%06x", r.Index)] = n
	}
	e := encoding{version: d.version, flags: disk.FlagExplicitOwner | compressorFlag(None) | digesterFlag(Blake3)}
	if len(t.blobs) > 0 {
		b := &t.blobs[0]
		e.flags = disk.FlagExplicitOwner | compressorFlag(Compressor(b.Compressor)) | digesterFlag(Digester(b.Digester))
	}
	p, err := t.encode(e)
	if err == nil {
		err = checkTables(p)
	}
	if err != nil {
		return nil, fmt.Errorf("chunk dictionary: %w", err)
	}
	return p, nil
}
