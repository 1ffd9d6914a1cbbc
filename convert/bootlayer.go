// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"

	"lighter/format"
)

// origin is image/lighter.json: where the image was made for, a hint for
// drivers that are handed layers without their name.
type origin struct {
	Version    int    `json:"version"`
	Repository string `json:"repository"` // "host/repository"
}

// bootLayer is a packed bootstrap layer.
type bootLayer struct {
	file   string
	desc   v1.Descriptor
	diffID v1.Hash
}

// packBootstrap packs the merged bootstrap, the layers' chunk tables and the
// origin as the last layer: tar within gzip, without times, owners or names.
func packBootstrap(name, bootstrap string, layers []*layer, repository string) (b bootLayer, err error) {
	version, err := bootVersion(bootstrap)
	if err != nil {
		return b, err
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	stored, content := sha256.New(), sha256.New()
	zw, err := gzip.NewWriterLevel(io.MultiWriter(out, stored), gzip.DefaultCompression)
	if err != nil {
		return b, err
	}
	tw := tar.NewWriter(io.MultiWriter(zw, content))
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: bootDir, Mode: 0o755}); err != nil {
		return b, err
	}
	if err := addFile(tw, bootName, bootstrap); err != nil {
		return b, err
	}
	seen := map[string]bool{}
	for _, l := range layers {
		metas := l.metas
		if l.meta != "" {
			metas = map[string]string{l.desc.Digest.Hex: l.meta}
		}
		for _, id := range slices.Sorted(maps.Keys(metas)) {
			if seen[id] {
				continue
			}
			seen[id] = true
			if err := addFile(tw, bootDir+"/"+id+metaSuffix, metas[id]); err != nil {
				return b, err
			}
		}
	}
	if repository != "" {
		raw, err := json.Marshal(origin{1, repository})
		if err != nil {
			return b, err
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: originName, Mode: 0o444, Size: int64(len(raw))}); err != nil {
			return b, err
		}
		if _, err := tw.Write(raw); err != nil {
			return b, err
		}
	}
	if err := tw.Close(); err != nil {
		return b, err
	}
	if err := zw.Close(); err != nil {
		return b, err
	}
	st, err := out.Stat()
	if err != nil {
		return b, err
	}
	d := v1.Descriptor{MediaType: mediaBootstrap, Digest: sumOf(stored), Size: st.Size(), Annotations: map[string]string{annBootstrap: "true", annFSVersion: version}}
	return bootLayer{name, d, sumOf(content)}, nil
}

// bootVersion is the RAFS version of a bootstrap.
func bootVersion(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	b, err := format.Open(f, st.Size())
	if err != nil {
		return "", fmt.Errorf("bootstrap: %w", err)
	}
	return fmt.Sprint(b.Info().Version), nil
}

func addFile(tw *tar.Writer, name, file string) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: st.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}

// Unpacked is a bootstrap layer's content in a directory.
type Unpacked struct {
	Bootstrap string            // file
	Digest    v1.Hash           // of that file
	Size      int64             // of that file, bytes
	Metas     map[string]string // blob id in hex to file <hex>.blob.meta
	Origin    string            // "host/repository" of image/lighter.json, "" without
	DiffID    v1.Hash           // of the layer's uncompressed content
}

// Bounds of what a bootstrap layer may unpack to: real ones shrink to a fifth or a
// twentieth, and gzip can make a thousand times its size of nothing.
const (
	maxUnpackRatio = 256
	freeUnpacked   = 64 << 20 // bytes that any ratio may give
	maxOrigin      = 4096     // bytes
)

// boundedReader fails where a limit is passed, which io.LimitedReader takes for the end.
type boundedReader struct {
	r    io.Reader
	left int64
	err  error // given instead of more
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.err
	}
	return n, err
}

// UnpackBootstrap fetches a bootstrap layer, verifies it by its digest, and
// unpacks the bootstrap and the chunk tables into dir under names of their own.
// Other files are left out; dir should be thrown away after an error.
func UnpackBootstrap(ctx context.Context, s Source, d v1.Descriptor, dir string) (*Unpacked, error) {
	r, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return ReadBootstrap(r, d, dir)
}

// ReadBootstrap is UnpackBootstrap for a reader of the whole layer, which
// must fail at its end if the bytes do not fit d.
func ReadBootstrap(r io.Reader, d v1.Descriptor, dir string) (*Unpacked, error) {
	u := &Unpacked{Metas: map[string]string{}}
	if err := u.read(r, dir, max(freeUnpacked, d.Size*maxUnpackRatio)); err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", d.Digest, err)
	}
	if u.Bootstrap == "" {
		return nil, fmt.Errorf("bootstrap layer %s: holds no %s", d.Digest, bootName)
	}
	return u, nil
}

func (u *Unpacked) read(r io.Reader, dir string, limit int64) error {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	h := sha256.New()
	in := io.TeeReader(&boundedReader{plain, limit, fmt.Errorf("unpacks to more than %d times its size", maxUnpackRatio)}, h)
	tr := tar.NewReader(in)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeReg {
			if err := u.take(tr, hdr, dir); err != nil {
				return fmt.Errorf("%q: %w", hdr.Name, err)
			}
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	u.DiffID = sumOf(h)
	_, err = io.Copy(io.Discard, r) // to the end, where the digest is compared
	return err
}

func (u *Unpacked) take(r io.Reader, hdr *tar.Header, dir string) error {
	id := strings.TrimSuffix(strings.TrimPrefix(hdr.Name, bootDir+"/"), metaSuffix)
	switch {
	case hdr.Name == bootName || hdr.Name == bootNameOld:
		if u.Bootstrap != "" {
			return errors.New("appears twice")
		}
		name := filepath.Join(dir, "image.boot")
		h := sha256.New()
		if err := fill(name, io.TeeReader(r, h)); err != nil {
			return err
		}
		u.Bootstrap, u.Digest, u.Size = name, sumOf(h), hdr.Size
	case hdr.Name == bootDir+"/"+id+metaSuffix && isBlobID(id):
		name := filepath.Join(dir, id+metaSuffix)
		u.Metas[id] = name
		return fill(name, r)
	case hdr.Name == originName && hdr.Size <= maxOrigin:
		raw, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		var o origin
		if json.Unmarshal(raw, &o) == nil && o.Version == 1 { // only a hint
			u.Origin = o.Repository
		}
	}
	return nil
}

func fill(name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// isBlobID says whether s is a sha256 in lower-case hex.
func isBlobID(s string) bool {
	if len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}
