// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/hex"
	"fmt"

	"lighter/format/internal/disk"
)

// Extent is where the unit that holds a chunk lies in its blob. A unit is
// what is stored and inflated as one: the chunk itself as a rule, a batch or
// the output of a zran context where the blob has those.
type Extent struct {
	Off, Size    int64 // of the stored unit in the blob, in bytes
	InflatedSize int64 // of the whole unit, in bytes
	Skip         int64 // where the chunk begins in the inflated unit, in bytes

	codec  Compressor
	zran   *zranUnit
	cipher *blobCipher
	bl     *Blob
}

// maxUnit limits the inflated size of a unit in bytes: contexts of zran may
// span several chunks.
const maxUnit = 4 * disk.MaxChunkSize

// NeedsMeta reports whether the chunk table of the bootstrap does not say
// where the blob's chunks lie, so that Extent needs the blob's own table.
func (b *Bootstrap) NeedsMeta(blobIndex uint32) bool {
	return uint64(blobIndex) < uint64(len(b.blobs)) &&
		b.blobs[blobIndex].Features&(disk.BlobBatch|disk.BlobZran|disk.BlobEncrypted) != 0
}

// Extent returns where chunk c lies. t may be nil unless NeedsMeta; if it is
// given, it must agree with the bootstrap.
func (b *Bootstrap) Extent(c Chunk, t *ChunkTable) (Extent, error) {
	if uint64(c.BlobIndex) >= uint64(len(b.blobs)) {
		return Extent{}, corrupt("chunk", "blob_index", -1, "%d of %d blobs", c.BlobIndex, len(b.blobs))
	}
	bl := &b.blobs[c.BlobIndex]
	needs := b.NeedsMeta(c.BlobIndex)
	if t == nil {
		if needs {
			return Extent{}, fmt.Errorf("chunk %d of blob %s: the blob's chunk infos are needed", c.Index, bl.ID)
		}
		e := Extent{Off: c.compressedOff, Size: int64(c.compressedSize), InflatedSize: int64(c.UncompressedSize), bl: bl}
		if c.flags&disk.RecordCompressed != 0 {
			e.codec = bl.Compressor
		}
		return e, nil
	}
	if t.bl.ID != bl.ID || t.bl.ChunkCount != bl.ChunkCount {
		return Extent{}, fmt.Errorf("chunk infos of blob %s given for blob %s", t.bl.ID, bl.ID)
	}
	x, err := t.info(c.Index)
	if err != nil {
		return Extent{}, err
	}
	bad := func(field, detail string, args ...any) (Extent, error) {
		return Extent{}, corrupt("chunk info", field, t.infoPos(c.Index),
			"chunk %d of blob %s: %s", c.Index, bl.ID, fmt.Sprintf(detail, args...))
	}
	switch {
	case int64(x.UncompressedOff) != c.UncompressedOff || x.UncompressedSize != c.UncompressedSize:
		return bad("uncompressed_offset", "%d bytes at %d, but %d at %d in the bootstrap",
			x.UncompressedSize, x.UncompressedOff, c.UncompressedSize, c.UncompressedOff)
	case x.Flags&^disk.InfoKnown != 0:
		return bad("flags", "unknown bits in %#x", x.Flags)
	case x.Flags&disk.InfoEncrypted != 0 && bl.cipher == nil:
		return bad("flags", "%#x in a blob that is not encrypted", x.Flags)
	case x.Flags&disk.InfoBatch != 0 && bl.IsBatch():
		return b.batchExtent(c, t, x, bad)
	case x.Flags&disk.InfoZran != 0 && bl.IsZran():
		return b.zranExtent(c, t, x, bad)
	case x.Flags&(disk.InfoBatch|disk.InfoZran) != 0:
		return bad("flags", "%#x in a blob with features %#x", x.Flags, bl.Features)
	}
	compressed := x.Flags&disk.InfoCompressed != 0
	if s := checkStored(bl, x.CompressedOff, x.CompressedSize, x.UncompressedSize, compressed); s != "" {
		return bad("compressed_offset", "%s", s)
	}
	if !needs && (int64(x.CompressedOff) != c.compressedOff || x.CompressedSize != c.compressedSize) {
		return bad("compressed_offset", "%d bytes at %d, but %d at %d in the bootstrap",
			x.CompressedSize, x.CompressedOff, c.compressedSize, c.compressedOff)
	}
	e := Extent{Off: int64(x.CompressedOff), Size: int64(x.CompressedSize), InflatedSize: int64(x.UncompressedSize), bl: bl}
	e.setCodec(compressed, x.Flags)
	return e, nil
}

// setCodec tells how to inflate the unit of a chunk with these info flags.
func (e *Extent) setCodec(compressed bool, flags uint8) {
	if compressed {
		e.codec = e.bl.Compressor
	}
	if flags&disk.InfoEncrypted != 0 {
		e.cipher = e.bl.cipher
	}
}

// batchExtent is Extent for a member of a batch.
func (b *Bootstrap) batchExtent(c Chunk, t *ChunkTable, x disk.ChunkInfoV2, bad func(string, string, ...any) (Extent, error)) (Extent, error) {
	bl := &b.blobs[c.BlobIndex]
	batch, skip := uint32(x.Data>>32), uint32(x.Data)
	if batch >= t.count {
		return bad("data", "batch %d of %d", batch, t.count)
	}
	var ctx disk.BatchContext
	ctx.Decode(t.contexts[int64(batch)*disk.BatchContextSize:])
	switch {
	case ctx.UncompressedSize > disk.MaxChunkSize:
		return bad("data", "batch %d of %d bytes", batch, ctx.UncompressedSize)
	case uint64(skip)+uint64(c.UncompressedSize) > uint64(ctx.UncompressedSize):
		return bad("data", "%d bytes at %d of batch %d of %d bytes", c.UncompressedSize, skip, batch, ctx.UncompressedSize)
	}
	compressed := ctx.CompressedSize != ctx.UncompressedSize
	if s := checkStored(bl, x.CompressedOff, ctx.CompressedSize, ctx.UncompressedSize, compressed); s != "" {
		return bad("compressed_offset", "batch %d: %s", batch, s)
	}
	e := Extent{Off: int64(x.CompressedOff), Size: int64(ctx.CompressedSize), InflatedSize: int64(ctx.UncompressedSize), Skip: int64(skip), bl: bl}
	e.setCodec(compressed, x.Flags)
	return e, nil
}

// Inflate returns the whole inflated unit, of InflatedSize bytes, for the
// stored bytes of the extent. It uses dst if its capacity suffices. Nothing is
// verified: see Verify.
func (e Extent) Inflate(dst, stored []byte) ([]byte, error) {
	if int64(len(stored)) != e.Size {
		return nil, e.corrupt(fmt.Errorf("%d stored bytes rather than %d", len(stored), e.Size))
	}
	if int64(cap(dst)) < e.InflatedSize {
		dst = make([]byte, e.InflatedSize)
	}
	dst = dst[:e.InflatedSize]
	var err error
	switch {
	case e.zran != nil:
		err = e.zran.inflate(dst, stored)
	case e.cipher != nil:
		err = e.cipher.decodeEncrypted(dst, stored, e.codec)
	default:
		err = e.codec.decode(dst, stored)
	}
	if err != nil {
		return nil, e.corrupt(err)
	}
	return dst, nil
}

func (e Extent) corrupt(cause error) error {
	id := "?"
	if e.bl != nil {
		id = e.bl.ID
	}
	return &Error{Structure: "blob " + id, Field: "stored chunk", Offset: e.Off, Err: ErrCorrupt, Cause: cause}
}

// Verify checks that data is chunk c: by size and digest. The error wraps
// ErrCorrupt and names the blob, the chunk and both digests.
func (b *Bootstrap) Verify(c Chunk, data []byte) error {
	if uint64(c.BlobIndex) >= uint64(len(b.blobs)) {
		return corrupt("chunk", "blob_index", -1, "%d of %d blobs", c.BlobIndex, len(b.blobs))
	}
	bl := &b.blobs[c.BlobIndex]
	if len(data) != int(c.UncompressedSize) {
		return corrupt("blob "+bl.ID, fmt.Sprintf("chunk %d", c.Index), c.UncompressedOff, "%d bytes rather than %d", len(data), c.UncompressedSize)
	}
	if sum := bl.Digester.Sum(data); sum != c.Digest {
		return corrupt("blob "+bl.ID, fmt.Sprintf("chunk %d", c.Index), c.UncompressedOff, "%s digest is %s, want %s",
			bl.Digester, hex.EncodeToString(sum[:]), hex.EncodeToString(c.Digest[:]))
	}
	return nil
}
