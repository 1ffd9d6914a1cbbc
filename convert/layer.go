// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"lighter/format"
)

// layer is one converted layer. Its bootstrap and chunk table lie in the work directory.
type layer struct {
	desc      v1.Descriptor // of the blob, with its annotations
	source    v1.Descriptor
	bootstrap string            // file: the layer's own, uncompressed
	meta      string            // file: content of <hex>.blob.meta; "" when the blob has no chunks
	metas     map[string]string // the same by blob id, of an image to build on
	split     string            // file: kept tar data; "": none
	how       Phase             // PhaseDone, PhaseReused or PhaseShared
}

// tarLayer refuses what is no tar: encrypted, foreign or other artifacts' layers.
func tarLayer(d v1.Descriptor) error {
	switch d.MediaType {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer,
		types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer, "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return nil
	}
	if len(d.URLs) > 0 {
		return fmt.Errorf("layer %s: lies outside the registry (media type %s)", d.Digest, d.MediaType)
	}
	return fmt.Errorf("layer %s: media type %s is no tar layer", d.Digest, d.MediaType)
}

// buildLayer converts one source layer into a blob in the work directory and
// puts it into the sink. The source's digest and diff id are both verified.
func (c *converter) buildLayer(ctx context.Context, d v1.Descriptor, diffID v1.Hash) (*layer, error) {
	if err := tarLayer(d); err != nil {
		return nil, err
	}
	blob := filepath.Join(c.work, d.Digest.Hex+".blob")
	defer os.Remove(blob)
	l := &layer{source: d, how: PhaseDone}
	spool := c.spool
	if c.o.OCIRef {
		spool = c.reference
	}
	built, err := spool(ctx, blob, l, diffID)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	l.desc = c.blobDescriptor(v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(built.Digest[:])}, built.Size, d.Digest)
	if err := c.keep(l, built.Bootstrap, built.Meta); err != nil {
		return nil, err
	}
	_, err = c.sink.Put(ctx, l.desc, func() (io.ReadCloser, error) {
		f, err := os.Open(blob)
		if err != nil {
			return nil, err
		}
		e := Event{Phase: PhaseUpload, Layer: d.Digest.String(), Total: l.desc.Size}
		return &contextReader{ctx, &countingReader{r: f, p: c.o.Progress, e: e}, f}, nil
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// spool streams the source layer through the builder into the file blob, and
// keeps its tar data if that is wanted.
func (c *converter) spool(ctx context.Context, blob string, l *layer, diffID v1.Hash) (*format.Layer, error) {
	out, err := os.OpenFile(blob, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if !c.o.KeepTar {
		built, err := c.build(ctx, out, l.source, diffID)
		return built, errors.Join(err, out.Close())
	}
	keep, err := c.startKeeping(l.source)
	if err != nil {
		return nil, err
	}
	built, err := c.build(ctx, out, l.source, diffID, keep)
	ok, kerr := keep.finish(err)
	if ok {
		l.split = keep.file
	}
	return built, errors.Join(err, kerr, out.Close())
}

// build streams a source layer through the builder into out; its tar goes to
// the others as well. Digest and diff id are verified.
func (c *converter) build(ctx context.Context, out io.Writer, d v1.Descriptor, diffID v1.Hash, others ...io.Writer) (*format.Layer, error) {
	src, err := c.src.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	e := Event{Phase: PhaseBuild, Layer: d.Digest.String(), Total: d.Size}
	counted := &countingReader{r: src, p: c.o.Progress, e: e}
	tar, err := decompress(counted)
	if err != nil {
		return nil, err
	}
	defer tar.Close()
	h := sha256.New()
	ahead := readAhead(&contextReader{ctx, tar, nil})
	in := io.TeeReader(ahead, io.MultiWriter(append(others, h)...))
	built, err := format.BuildLayer(out, in, c.o.Build) // reads all, also what follows the archive's end
	ahead.Close()
	if err != nil {
		return nil, err
	}
	// What follows the compressed stream counts for the digest.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return nil, err
	}
	if got := sumOf(h); diffID != (v1.Hash{}) && got != diffID {
		return nil, fmt.Errorf("%w: the config's diff id is %s, its content has %s", ErrDigest, diffID, got)
	}
	return built, nil
}

// reference makes the blob of a layer whose data stays where it is.
func (c *converter) reference(ctx context.Context, blob string, l *layer, diffID v1.Hash) (*format.Layer, error) {
	d := l.source
	out, err := os.OpenFile(blob, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	src, err := c.src.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	e := Event{Phase: PhaseBuild, Layer: d.Digest.String(), Total: d.Size}
	ahead := readAhead(&contextReader{ctx, &countingReader{r: src, p: c.o.Progress, e: e}, nil})
	built, err := format.BuildReference(out, ahead, c.o.Build)
	ahead.Close()
	if errors.Is(err, format.ErrUnsupported) {
		err = fmt.Errorf("%w (hint: convert it without --oci-ref)", err)
	}
	if err != nil {
		return nil, err
	}
	if got := (v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(built.DiffID[:])}); diffID != (v1.Hash{}) && got != diffID {
		return nil, fmt.Errorf("%w: the config's diff id is %s, its content has %s", ErrDigest, diffID, got)
	}
	return &built.Layer, out.Close()
}

// blobDescriptor is a data blob's entry in the full manifest.
func (c *converter) blobDescriptor(digest v1.Hash, size int64, source v1.Hash) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaBlob, Digest: digest, Size: size, Annotations: map[string]string{
		annBlob:         "true",
		annSourceDigest: source.String(),
		annOptions:      c.o.fingerprint(),
	}}
	if c.o.OCIRef {
		d.Annotations[annRef] = source.String()
	}
	return d
}

// keep moves what merging needs of a layer out of memory.
func (c *converter) keep(l *layer, bootstrap, meta []byte) error {
	l.bootstrap = filepath.Join(c.work, l.source.Digest.Hex+".boot")
	if err := os.WriteFile(l.bootstrap, bootstrap, 0o600); err != nil {
		return err
	}
	if meta == nil {
		return nil
	}
	l.meta = filepath.Join(c.work, l.source.Digest.Hex+metaSuffix)
	return os.WriteFile(l.meta, meta, 0o600)
}

// mergeLayers writes the image's bootstrap to the file name, and gives the ids
// of the blobs that it has.
func mergeLayers(name string, layers []*layer, prefetch []string) (blobs []string, err error) {
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
	}()
	var in []format.MergeLayer
	for _, l := range layers {
		raw, err := os.ReadFile(l.bootstrap)
		if err != nil {
			return nil, err
		}
		b, err := format.Open(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return nil, fmt.Errorf("layer %s: bootstrap: %w", l.desc.Digest, err)
		}
		in = append(in, format.MergeLayer{ID: l.desc.Digest.Hex, Bootstrap: b, Size: l.desc.Size})
	}
	m, err := format.Merge(out, in, format.MergeOptions{Prefetch: prefetch})
	if err != nil {
		return nil, err
	}
	return m.Blobs, nil
}

// generation changes when the builder writes other bytes for the same options.
const generation = "1"

// fingerprint names everything that decides a blob's bytes besides its source.
func (o *Options) fingerprint() string {
	codec := format.Zstd
	if o.Build.Compressor != nil {
		codec = *o.Build.Compressor
	}
	chunk := o.Build.ChunkSize
	if chunk == 0 {
		chunk = 1 << 20
	}
	if o.OCIRef {
		return fmt.Sprintf("%s/v%s/ref/%d", generation, fsVersionSix, chunk)
	}
	s := fmt.Sprintf("%s/v%s/%s/%d/%d/%s", generation, fsVersion(o.Build), codec, o.Build.Level, chunk, o.Build.Digester)
	if o.Build.BatchSize != 0 {
		s += fmt.Sprintf("/batch=%d", o.Build.BatchSize)
	}
	if o.Build.ChunkDict != nil {
		s += "/dict=" + o.Build.ChunkDict.ID()
	}
	return s
}

// fsVersion is the RAFS version as annotations have it.
func fsVersion(o format.BuildOptions) string {
	if o.Version == 5 {
		return fsVersionFive
	}
	return fsVersionSix
}
