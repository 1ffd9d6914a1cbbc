// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Errors that callers decide by.
var (
	ErrNotFound = errors.New("not found")                       // no such tag, manifest or blob
	ErrDigest   = errors.New("content differs from its digest") // also: its size
)

// maxManifest bounds manifests, indexes and configs, which are held in memory (bytes).
const maxManifest = 16 << 20

// Source is one place that images are read from. Methods may be called
// concurrently, Close only once and last.
type Source interface {
	// Manifest gives a manifest or index, its bytes verified against d's digest
	// and, unless zero, size. A zero d means what the reference names.
	Manifest(ctx context.Context, d v1.Descriptor) (Manifest, error)
	// Open streams a blob. The reader fails with ErrDigest instead of giving
	// io.EOF when the bytes do not fit d.
	Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// ReaderAt opens a blob for random access, whose bytes are not verified. The
	// context covers the blob's reads as well.
	ReaderAt(ctx context.Context, d v1.Descriptor) (Blob, error)
	Close() error
}

// Sink is one place that images are written to. Put may be called concurrently.
type Sink interface {
	// Put stores a blob and says whether that was needed: one that is there
	// already is neither opened nor written. open may be called again to retry.
	Put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) (stored bool, err error)
	// PutManifest stores a manifest after all that it lists, under its digest and tags.
	PutManifest(ctx context.Context, m Manifest, tags ...string) error
	// Commit makes everything put visible that is not yet.
	Commit(ctx context.Context) error
	// Close ends the sink; without a Commit it takes back what is not visible.
	Close() error
}

// Blob is random access to a blob's stored bytes.
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64 // bytes
}

// Manifest is an image manifest or an index as its exact bytes.
type Manifest struct {
	Raw       []byte
	MediaType types.MediaType
	Digest    v1.Hash // of Raw
}

// NewManifest hashes raw.
func NewManifest(raw []byte, mt types.MediaType) Manifest {
	return Manifest{Raw: raw, MediaType: mt, Digest: hashOf(raw)}
}

// Descriptor names the manifest: media type, digest and size.
func (m Manifest) Descriptor() v1.Descriptor {
	return v1.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw))}
}

func hashOf(b []byte) v1.Hash {
	s := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s[:])}
}

func sumOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// verifyReader gives what it reads, and ErrDigest in place of io.EOF when that
// was not d's content. It never gives more than d.Size bytes.
type verifyReader struct {
	r    io.ReadCloser
	d    v1.Descriptor
	h    hash.Hash
	left int64
}

func verified(r io.ReadCloser, d v1.Descriptor) io.ReadCloser {
	return &verifyReader{r: r, d: d, h: sha256.New(), left: d.Size}
}

func (v *verifyReader) Read(p []byte) (int, error) {
	if v.left == 0 {
		return 0, v.end()
	}
	if int64(len(p)) > v.left {
		p = p[:v.left]
	}
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.left -= int64(n)
	if err == io.EOF && v.left > 0 {
		return n, fmt.Errorf("blob %s: %w: ends %d bytes short of %d", v.d.Digest, ErrDigest, v.left, v.d.Size)
	}
	if err == io.EOF {
		err = nil // end decides
	}
	if err == nil && v.left == 0 {
		if end := v.end(); end != io.EOF {
			return 0, end
		}
	}
	return n, err
}

func (v *verifyReader) end() error {
	if got := sumOf(v.h); got != v.d.Digest {
		return fmt.Errorf("blob %s: %w: found %s", v.d.Digest, ErrDigest, got)
	}
	return io.EOF
}

func (v *verifyReader) Close() error { return v.r.Close() }

// readAll reads a small verified blob, a config or a manifest, into memory.
func readAll(ctx context.Context, s Source, d v1.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxManifest {
		return nil, fmt.Errorf("blob %s: %d bytes is more than the %d that a config may have", d.Digest, d.Size, maxManifest)
	}
	r, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
