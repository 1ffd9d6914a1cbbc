// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"lighter/format/internal/disk"
)

// zranUnit inflates the output of one zran context: a piece of an ordinary
// gzip archive that begins at the border of a deflate block.
type zranUnit struct {
	dict []byte // the 32 KiB of output before the piece, or less
	last byte   // archive byte before the piece
	bits uint   // how many of its highest bits belong to the piece
}

// zranExtent is Extent for a chunk in a gzip archive.
func (b *Bootstrap) zranExtent(c Chunk, t *ChunkTable, x disk.ChunkInfoV2, bad func(string, string, ...any) (Extent, error)) (Extent, error) {
	bl := &b.blobs[c.BlobIndex]
	index, skip := uint32(x.Data>>32), uint32(x.Data)
	if index >= t.count {
		return bad("data", "zran context %d of %d", index, t.count)
	}
	var ctx disk.ZranContext
	ctx.Decode(t.contexts[int64(index)*disk.ZranContextSize:])
	dicts := t.contexts[int64(t.count)*disk.ZranContextSize:]
	data := bl.DataSize()
	switch {
	case ctx.OutLen > maxUnit || ctx.InLen > maxUnit || ctx.InLen == 0:
		return bad("data", "zran context %d inflates %d to %d bytes", index, ctx.InLen, ctx.OutLen)
	case uint64(skip)+uint64(c.UncompressedSize) > uint64(ctx.OutLen):
		return bad("data", "%d bytes at %d of zran context %d of %d bytes", c.UncompressedSize, skip, index, ctx.OutLen)
	case ctx.InOff > data || uint64(ctx.InLen) > data-ctx.InOff:
		return bad("data", "zran context %d: %d bytes at %d of %d", index, ctx.InLen, ctx.InOff, data)
	case ctx.Bits > 7:
		return bad("data", "zran context %d begins %d bits early", index, ctx.Bits)
	case ctx.DictLen > disk.MaxZranDict || ctx.DictOff > uint64(len(dicts)) || uint64(ctx.DictLen) > uint64(len(dicts))-ctx.DictOff:
		return bad("data", "zran context %d: dictionary of %d bytes at %d of %d", index, ctx.DictLen, ctx.DictOff, len(dicts))
	}
	return Extent{
		Off: int64(ctx.InOff), Size: int64(ctx.InLen), InflatedSize: int64(ctx.OutLen), Skip: int64(skip), codec: Gzip, bl: bl,
		zran: &zranUnit{dict: dicts[ctx.DictOff : ctx.DictOff+uint64(ctx.DictLen)], last: ctx.Byte, bits: uint(ctx.Bits)},
	}, nil
}

// inflate fills dst from the stored piece. Where a gzip member ends in it,
// the next one follows.
func (u *zranUnit) inflate(dst, stored []byte) error {
	r := bytes.NewReader(append(u.prefix(), stored...))
	raw := flate.NewReaderDict(r, u.dict)
	n, err := io.ReadFull(raw, dst)
	if err == nil {
		return nil
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("deflate: %w", err)
	}
	if _, err := r.Seek(8, io.SeekCurrent); err != nil { // CRC-32 and size
		return fmt.Errorf("gzip trailer: %w", err)
	}
	next, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("next gzip member: %w", err)
	}
	if _, err := io.ReadFull(next, dst[n:]); err != nil {
		return fmt.Errorf("next gzip member: %w", err)
	}
	return nil
}

// Empty deflate blocks that are not the last (RFC 1951). The second one has
// an odd length: it declares codes for "end of block" and for one distance,
// whose lengths, 256 times 0 and twice 1, are themselves written with two
// codes of one bit each: 0 for "length 1", 1 for "run of zeros".
var (
	emptyFixed = bitString{ // 10 bits
		{0b010, 3}, // fixed codes
		{0, 7},     // end of block
	}
	emptyDynamic = bitString{ // 93 bits
		{0b100, 3},              // dynamic codes
		{0, 5}, {0, 5}, {15, 4}, // 257 literal, 1 distance and 19 code length codes
		{0, 6}, {1, 3}, {0, 42}, // lengths of the codes for 16, 17; 18; 0 … 14
		{1, 3}, {0, 3}, // 1; 15
		{1, 1}, {138 - 11, 7}, // 138 zeros
		{1, 1}, {118 - 11, 7}, // 118 zeros
		{0, 1}, {0, 1}, // twice length 1
		{0, 1}, // end of block
	}
)

// bitString is a list of values with their lengths in bits, lowest bit first.
type bitString []struct {
	value uint64
	n     uint
}

// prefix returns bytes of which the last ends with the pending bits of the
// piece. Go's flate begins at whole bytes only: empty blocks whose lengths
// add up to the missing bits go before.
func (u *zranUnit) prefix() []byte {
	if u.bits == 0 {
		return nil
	}
	var w bitWriter
	for missing := 8 - u.bits; (w.n+u.bits)%8 != 0; {
		if missing%2 == 1 && w.n == 0 {
			w.add(emptyDynamic)
		} else {
			w.add(emptyFixed)
		}
	}
	w.add(bitString{{uint64(u.last >> (8 - u.bits)), u.bits}})
	return w.p
}

type bitWriter struct {
	p []byte
	n uint // bits written
}

func (w *bitWriter) add(s bitString) {
	for _, x := range s {
		for k := range x.n {
			if w.n%8 == 0 {
				w.p = append(w.p, 0)
			}
			w.p[len(w.p)-1] |= byte(x.value>>k&1) << (w.n % 8)
			w.n++
		}
	}
}
