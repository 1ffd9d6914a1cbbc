// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"lighter/format"
)

// ImageExport tells what ExportImage wrote.
type ImageExport struct {
	Digest v1.Hash         `json:"digest"` // of the manifest
	Config v1.Hash         `json:"config"` // Docker's image id
	Layers []ExportedLayer `json:"layers"`
}

// ExportedLayer is one layer of an ImageExport.
type ExportedLayer struct {
	Digest v1.Hash   `json:"digest"`
	DiffID v1.Hash   `json:"diffId"`
	Size   int64     `json:"size"` // stored bytes
	How    ExportHow `json:"how"`
}

// ExportHow says where a layer's tar came from.
type ExportHow string

// The ways to a layer.
const (
	ExportOriginal ExportHow = "original" // the very layer that holds the data (OCI-ref)
	ExportBytes    ExportHow = "bytes"    // the tar's very bytes, of kept tar data
	ExportTree     ExportHow = "tree"     // an equal tar of the layer's own tree
	ExportMerged   ExportHow = "merged"   // one tar of the whole image
)

// ExportImage makes an ordinary image of a Nydus image and puts it into a sink,
// which it commits. Layers stay apart where each blob has a tree of its own. With kept tar data
// the config and the diff ids are those of the source. dir holds temporary files.
func ExportImage(ctx context.Context, im *Image, o *Opened, dir string, sink Sink, tag string) (*ImageExport, error) {
	raw, err := readAll(ctx, im.Source, im.Spec.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	x := &imageExporter{ctx: ctx, im: im, o: o, dir: dir, sink: sink}
	if x.kept, err = im.openKept(ctx); err != nil {
		return nil, err
	}
	apart := im.Kind == KindNydus && len(im.Spec.Layers) > 1
	if !apart {
		err = x.merged()
	}
	for i, d := range im.Spec.Layers[:len(im.Spec.Layers)-1] {
		if err == nil && apart {
			err = x.layer(i, d)
		}
	}
	if err != nil {
		return nil, err
	}
	config, err := x.config(raw, apart)
	if err != nil {
		return nil, err
	}
	if _, err := sink.Put(ctx, config.desc, config.open); err != nil {
		return nil, err
	}
	rawManifest, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: mediaManifest, Config: config.desc, Layers: x.descs})
	if err != nil {
		return nil, err
	}
	m := NewManifest(rawManifest, mediaManifest)
	if err := sink.PutManifest(ctx, m, tag); err != nil {
		return nil, err
	}
	x.done.Digest, x.done.Config = m.Digest, config.desc.Digest
	return &x.done, sink.Commit(ctx)
}

type imageExporter struct {
	ctx   context.Context
	im    *Image
	o     *Opened
	dir   string
	sink  Sink
	kept  *kept
	descs []v1.Descriptor
	done  ImageExport
}

// config is the source's where all layers have its bytes, else the image's own
// without what the conversion added.
func (x *imageExporter) config(raw []byte, apart bool) (blob, error) {
	var ids []v1.Hash
	for _, l := range x.done.Layers {
		ids = append(ids, l.DiffID)
	}
	if x.kept != nil {
		if c, err := parseConfig(x.kept.config); err == nil && sameHashes(c.rootfs.DiffIDs, ids) {
			return newBlob(x.kept.config, mediaConfig), nil
		}
	}
	c, err := parseConfig(raw)
	if err != nil {
		return blob{}, err
	}
	var hist []historyEntry
	for _, h := range c.history {
		if h != bootstrapHistory {
			hist = append(hist, h)
		}
	}
	if !apart {
		hist = []historyEntry{{CreatedBy: "lighter export"}}
	}
	raw, err = c.with(ids, hist)
	return newBlob(raw, mediaConfig), err
}

func sameHashes(a, b []v1.Hash) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// layer exports the layer whose blob is d.
func (x *imageExporter) layer(i int, d v1.Descriptor) error {
	if ref, err := v1.NewHash(d.Annotations[annRef]); err == nil {
		return x.original(ref)
	}
	b, err := x.im.blobReader(x.ctx, d.Digest.Hex)
	if err != nil {
		return err
	}
	defer b.Close()
	raw, _, err := inlined(b)
	if err != nil {
		return fmt.Errorf("blob %s: %w (hint: --tar or --dir need no trees of layers)", d.Digest, err)
	}
	boot, err := format.OpenBytes(raw)
	if err != nil {
		return fmt.Errorf("blob %s: bootstrap: %w", d.Digest, err)
	}
	open := func(format.Blob) (io.ReaderAt, int64, error) { return readerAtOnly{b}, b.Size(), nil }
	if x.kept != nil {
		from, _ := v1.NewHash(SourceOf(d))
		if k, ok := x.kept.layers[from]; ok {
			return x.put(i, ExportBytes, func(w io.Writer) error { return x.bytes(w, k, boot, open) })
		}
	}
	return x.put(i, ExportTree, func(w io.Writer) error {
		_, err := exportTar(w, boot, open, true)
		return err
	})
}

// readerAtOnly hides Close: the blob is read more than once.
type readerAtOnly struct{ io.ReaderAt }

func (x *imageExporter) bytes(w io.Writer, k v1.Descriptor, boot *format.Bootstrap, open format.OpenBlob) error {
	want, err := v1.NewHash(k.Annotations[annDiffID])
	if err != nil {
		return fmt.Errorf("kept tar data %s: diff id: %w", k.Digest, err)
	}
	r, err := x.im.Source.Open(x.ctx, k)
	if err != nil {
		return err
	}
	defer r.Close()
	return joinTar(w, r, want, boot, open)
}

func (x *imageExporter) merged() error {
	return x.put(0, ExportMerged, func(w io.Writer) error {
		_, err := ExportTar(w, x.o.Bootstrap, x.o.OpenBlob)
		return err
	})
}

// put makes a gzip layer of what write writes, and puts it.
func (x *imageExporter) put(i int, how ExportHow, write func(io.Writer) error) error {
	name := filepath.Join(x.dir, fmt.Sprintf("layer-%d.tar.gz", i))
	defer os.Remove(name)
	diffID, err := gzipTo(name, &contextWriter{x.ctx, nil}, write)
	if err != nil {
		return fmt.Errorf("layer %d: %w", i, err)
	}
	d, err := fileDescriptor(name)
	if err != nil {
		return err
	}
	d.MediaType = types.OCILayer
	if _, err := x.sink.Put(x.ctx, d, func() (io.ReadCloser, error) { return os.Open(name) }); err != nil {
		return err
	}
	x.add(d, diffID, how)
	return nil
}

func (x *imageExporter) add(d v1.Descriptor, diffID v1.Hash, how ExportHow) {
	x.descs = append(x.descs, d)
	x.done.Layers = append(x.done.Layers, ExportedLayer{d.Digest, diffID, d.Size, how})
}

func gzipTo(name string, cw *contextWriter, write func(io.Writer) error) (diffID v1.Hash, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return diffID, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zw := gzip.NewWriter(f)
	h := sha256.New()
	cw.w = io.MultiWriter(zw, h)
	if err := write(cw); err != nil {
		return diffID, err
	}
	return sumOf(h), zw.Close()
}

// contextWriter ends with its context.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *contextWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// original takes over the ordinary layer that a reference image reads from.
func (x *imageExporter) original(ref v1.Hash) error {
	b, err := BlobByID(x.ctx, x.im.Source, ref.Hex)
	if err != nil {
		return err
	}
	d := v1.Descriptor{MediaType: types.OCILayer, Digest: ref, Size: b.Size()}
	b.Close()
	r, err := x.im.Source.Open(x.ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	id, _, err := v1.SHA256(plain)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // to the end, where the digest is compared
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", ref, err)
	}
	if _, err := x.sink.Put(x.ctx, d, func() (io.ReadCloser, error) { return x.im.Source.Open(x.ctx, d) }); err != nil {
		return err
	}
	x.add(d, id, ExportOriginal)
	return nil
}
