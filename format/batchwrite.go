// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"

	"lighter/format/internal/disk"
)

// batchWriter collects the content of small files, to be compressed together.
// Its bytes are those that the reference builder would store.
type batchWriter struct {
	size     int64 // of BuildOptions; 0: no batches
	data     []byte
	members  []uint32 // their numbers in the blob
	contexts []byte
	count    uint32 // of contexts
}

// takes reports whether a chunk goes into a batch: one that is all of a file,
// and less than half a batch.
func (w *batchWriter) takes(c *piece, n int) bool {
	return c.single && int64(n) < w.size/2
}

// add puts a chunk into the current batch, and returns its chunk info but for
// the place of the batch, which flush finds out.
func (b *layerBuilder) addToBatch(raw []byte, number uint32) (disk.ChunkInfoV2, error) {
	w := &b.batches
	if int64(len(w.data)+len(raw)) >= w.size {
		if err := b.flushBatch(); err != nil {
			return disk.ChunkInfoV2{}, err
		}
	}
	x := disk.ChunkInfoV2{Flags: disk.InfoCompressed | disk.InfoBatch, Data: uint64(w.count)<<32 | uint64(len(w.data))}
	w.data, w.members = append(w.data, raw...), append(w.members, number)
	return x, nil
}

// flushBatch writes the current batch, if there is one.
func (b *layerBuilder) flushBatch() error {
	w := &b.batches
	if len(w.data) == 0 {
		return nil
	}
	stored := w.data
	if b.compressor != None {
		packed, err := b.compress(nil, w.data)
		if err != nil {
			return err
		}
		if len(packed) < len(w.data) {
			stored = packed
		}
	}
	if err := b.out.leadIn(stored); err != nil {
		return err
	}
	if b.out.size+int64(len(stored)) > disk.MaxCompressedOff {
		return errTooLarge
	}
	for _, k := range w.members {
		b.infos[k].CompressedOff = uint64(b.out.size)
	}
	x := disk.BatchContext{CompressedSize: uint32(len(stored)), UncompressedSize: uint32(len(w.data))}
	w.contexts = x.Append(w.contexts)
	w.count++
	w.data, w.members = w.data[:0], w.members[:0]
	return b.out.write(stored)
}

// checkBatchSize says why batches of that size cannot be built, nil if they can.
func checkBatchSize(o BuildOptions) error {
	switch n := o.BatchSize; {
	case n == 0:
		return nil
	case o.Version == 5:
		return fmt.Errorf("RAFS v5 has no batches")
	case n < blockSize || n > o.ChunkSize || n&(n-1) != 0:
		return fmt.Errorf("batch size %d is no power of two from %d to the chunk size, %d", n, blockSize, o.ChunkSize)
	}
	return nil
}
