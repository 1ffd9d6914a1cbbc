// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compressor is the codec of a blob's chunks or chunk infos, numbered as in
// the RAFS v6 blob table.
type Compressor uint32

const (
	None     Compressor = 0
	LZ4Block Compressor = 1 // raw block: no frame, no size
	Gzip     Compressor = 2 // one member
	Zstd     Compressor = 3 // standard frame
)

// codec is how one Compressor works. decode fills dst completely or fails,
// and writes nowhere else. encoder returns a function that appends the
// compressed form of src to dst; level 0 is the codec's default. All
// functions are safe for concurrent use.
type codec struct {
	name    string
	decode  func(dst, src []byte) error
	encoder func(level int) (func(dst, src []byte) ([]byte, error), error)
}

var codecs = [...]codec{
	None:     {"none", decodeNone, encoderNone},
	LZ4Block: {"lz4_block", decodeLZ4, encoderLZ4},
	Gzip:     {"gzip", decodeGzip, encoderGzip},
	Zstd:     {"zstd", decodeZstd, encoderZstd},
}

// String returns the name that the command line uses.
func (c Compressor) String() string {
	if c.Valid() {
		return codecs[c].name
	}
	return fmt.Sprintf("compressor %d", uint32(c))
}

// ParseCompressor is the inverse of String.
func ParseCompressor(name string) (Compressor, error) {
	for i, c := range codecs {
		if c.name == name {
			return Compressor(i), nil
		}
	}
	return 0, fmt.Errorf("unknown compressor %q", name)
}

// Valid reports whether c is one of the known codecs.
func (c Compressor) Valid() bool { return int64(c) < int64(len(codecs)) }

// decode inflates src into dst, whose length must be the inflated size.
// Memory is bounded by len(dst) whatever src says.
func (c Compressor) decode(dst, src []byte) error {
	if !c.Valid() {
		return fmt.Errorf("unknown %s", c)
	}
	return codecs[c].decode(dst, src)
}

// encoder returns a function that appends the compressed form of src to dst.
// The same input, level and version of this module give the same bytes.
func (c Compressor) encoder(level int) (func(dst, src []byte) ([]byte, error), error) {
	if !c.Valid() {
		return nil, fmt.Errorf("unknown %s", c)
	}
	return codecs[c].encoder(level)
}

var errInflatedSize = errors.New("inflated size differs from the declared one")

func decodeNone(dst, src []byte) error {
	if len(src) != len(dst) {
		return errInflatedSize
	}
	copy(dst, src)
	return nil
}

func encoderNone(int) (func(dst, src []byte) ([]byte, error), error) {
	return func(dst, src []byte) ([]byte, error) { return append(dst, src...), nil }, nil
}

func decodeLZ4(dst, src []byte) error {
	n, err := lz4.UncompressBlock(src, dst)
	if err != nil {
		return fmt.Errorf("lz4 block: %w", err)
	}
	if n != len(dst) {
		return errInflatedSize
	}
	return nil
}

var lz4Pool = sync.Pool{New: func() any { return new(lz4.Compressor) }}

func encoderLZ4(level int) (func(dst, src []byte) ([]byte, error), error) {
	if level != 0 {
		return nil, fmt.Errorf("lz4_block has no level %d, only 0", level)
	}
	return func(dst, src []byte) ([]byte, error) {
		c := lz4Pool.Get().(*lz4.Compressor)
		defer lz4Pool.Put(c)
		n := len(dst)
		bound := n + lz4.CompressBlockBound(len(src))
		if cap(dst) < bound {
			dst = append(make([]byte, 0, bound), dst...)
		}
		m, err := c.CompressBlock(src, dst[n:bound])
		if err != nil {
			return nil, fmt.Errorf("lz4 block: %w", err)
		}
		if m == 0 && len(src) > 0 {
			return nil, errors.New("lz4 block: no output")
		}
		return dst[:n+m], nil
	}, nil
}

func decodeGzip(dst, src []byte) error {
	z, err := gzip.NewReader(bytes.NewReader(src))
	if err != nil {
		return fmt.Errorf("gzip: %w", err)
	}
	defer z.Close()
	if _, err := io.ReadFull(z, dst); err != nil {
		return fmt.Errorf("gzip: %w", err)
	}
	switch n, err := z.Read(make([]byte, 1)); {
	case n != 0:
		return errInflatedSize
	case err != io.EOF:
		return fmt.Errorf("gzip: %w", err)
	}
	return nil
}

func encoderGzip(level int) (func(dst, src []byte) ([]byte, error), error) {
	if level == 0 {
		level = gzip.DefaultCompression
	}
	if _, err := gzip.NewWriterLevel(io.Discard, level); err != nil {
		return nil, err
	}
	return func(dst, src []byte) ([]byte, error) {
		b := bytes.NewBuffer(dst)
		z, err := gzip.NewWriterLevel(b, level)
		if err != nil {
			return nil, err
		}
		if _, err := z.Write(src); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		return b.Bytes(), nil
	}, nil
}

// zstdDecoder is shared: DecodeAll may run concurrently, and keeps to the
// capacity of its destination.
var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true))
})

func decodeZstd(dst, src []byte) error {
	d, err := zstdDecoder()
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	out, err := d.DecodeAll(src, dst[:0:len(dst)])
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	if len(out) != len(dst) {
		return errInflatedSize
	}
	return nil
}

// zstdLevel is the default level, that of the reference builder.
const zstdLevel = 3

func encoderZstd(level int) (func(dst, src []byte) ([]byte, error), error) {
	if level == 0 {
		level = zstdLevel
	}
	if level < 1 || level > 22 {
		return nil, fmt.Errorf("zstd has no level %d, only 1 to 22", level)
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return func(dst, src []byte) ([]byte, error) { return e.EncodeAll(src, dst), nil }, nil
}
