// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// refName is the annotation that names an entry of a layout's index.json (OCI Image Layout).
const refName = "org.opencontainers.image.ref.name"

// tree is the files of a layout: a directory, or a tar file.
type tree interface {
	open(name string) (Blob, error) // slash-separated; fs.ErrNotExist
}

type dirTree string

func (d dirTree) open(name string) (Blob, error) {
	// O_NONBLOCK: opening a pipe would wait for its writer.
	f, err := os.OpenFile(filepath.Join(string(d), filepath.FromSlash(name)), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: f.Name(), Err: fs.ErrInvalid}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return fileBlob{f, st.Size()}, nil
}

type fileBlob struct {
	*os.File
	size int64
}

func (b fileBlob) Size() int64 { return b.size }

// layoutSource reads an OCI image layout.
type layoutSource struct {
	ref    Reference
	tree   tree
	closer io.Closer
	index  v1.IndexManifest
	raw    []byte // index.json
}

func openLayout(r Reference, t tree, c io.Closer) (*layoutSource, error) {
	l := &layoutSource{ref: r, tree: t, closer: c}
	marker, err := readTree(t, "oci-layout")
	if err != nil {
		return nil, fmt.Errorf("%s: not an OCI image layout: oci-layout: %w", r.Path, notFound(err))
	}
	var lay struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(marker, &lay); err != nil || lay.Version != "1.0.0" {
		return nil, fmt.Errorf("%s: oci-layout: version %q is not 1.0.0", r.Path, lay.Version)
	}
	if l.raw, err = readTree(t, "index.json"); err != nil {
		return nil, fmt.Errorf("%s: index.json: %w", r.Path, notFound(err))
	}
	if err := json.Unmarshal(l.raw, &l.index); err != nil {
		return nil, fmt.Errorf("%s: index.json: %w", r.Path, err)
	}
	if l.index.SchemaVersion != 2 {
		return nil, fmt.Errorf("%s: index.json: schema version %d is not 2", r.Path, l.index.SchemaVersion)
	}
	return l, nil
}

func notFound(err error) error {
	if os.IsNotExist(err) {
		return fmt.Errorf("%w (%v)", ErrNotFound, err)
	}
	return err
}

func readTree(t tree, name string) ([]byte, error) {
	b, err := t.open(name)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	if b.Size() > maxManifest {
		return nil, fmt.Errorf("%d bytes is more than the limit of %d", b.Size(), maxManifest)
	}
	return io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
}

// root finds the entry of index.json that the reference names.
func (l *layoutSource) root() (v1.Descriptor, error) {
	var found []v1.Descriptor
	var names []string
	for _, d := range l.index.Manifests {
		n := d.Annotations[refName]
		names = append(names, n)
		if l.ref.Digest != (v1.Hash{}) && d.Digest == l.ref.Digest ||
			l.ref.Digest == (v1.Hash{}) && (n == l.ref.Tag || l.ref.Tag == "" && d.ArtifactType == "") {
			found = append(found, d)
		}
	}
	sort.Strings(names)
	switch {
	case len(found) == 0 && l.ref.Digest != (v1.Hash{}):
		return v1.Descriptor{Digest: l.ref.Digest}, nil
	case len(found) == 0:
		return v1.Descriptor{}, fmt.Errorf("%s: tag %q: %w; the layout has %s", l.ref.Path, l.ref.Tag, ErrNotFound, strings.Join(names, ", "))
	case len(found) > 1 && !same(found):
		return v1.Descriptor{}, fmt.Errorf("%s: %d images match; name one of %s", l.ref.Path, len(found), strings.Join(names, ", "))
	}
	return found[0], nil
}

func same(ds []v1.Descriptor) bool {
	for _, d := range ds {
		if d.Digest != ds[0].Digest {
			return false
		}
	}
	return true
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func (l *layoutSource) Manifest(_ context.Context, d v1.Descriptor) (Manifest, error) {
	if d.Digest == (v1.Hash{}) {
		root, err := l.root()
		if err != nil {
			return Manifest{}, err
		}
		d = root
	}
	raw, err := readTree(l.tree, blobPath(d.Digest))
	if err != nil {
		return Manifest{}, fmt.Errorf("%s: manifest %s: %w", l.ref.Path, d.Digest, notFound(err))
	}
	return checkedManifest(raw, d)
}

// checkedManifest holds raw against d and finds its media type.
func checkedManifest(raw []byte, d v1.Descriptor) (Manifest, error) {
	if got := hashOf(raw); got != d.Digest {
		return Manifest{}, fmt.Errorf("manifest %s: %w: found %s", d.Digest, ErrDigest, got)
	}
	if d.Size != 0 && int64(len(raw)) != d.Size {
		return Manifest{}, fmt.Errorf("manifest %s: %w: has %d bytes, not %d", d.Digest, ErrDigest, len(raw), d.Size)
	}
	var m struct {
		MediaType types.MediaType `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	switch { // OCI lets the field be absent
	case m.MediaType == "" && d.MediaType != "":
		m.MediaType = d.MediaType
	case m.MediaType == "" && m.Manifests != nil:
		m.MediaType = types.OCIImageIndex
	case m.MediaType == "":
		m.MediaType = types.OCIManifestSchema1
	case d.MediaType != "" && d.MediaType != m.MediaType:
		return Manifest{}, fmt.Errorf("manifest %s: media type %q, but its descriptor says %q", d.Digest, m.MediaType, d.MediaType)
	}
	return Manifest{Raw: raw, MediaType: m.MediaType, Digest: d.Digest}, nil
}

func (l *layoutSource) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	b, err := l.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return verified(&contextReader{ctx, io.NewSectionReader(b, 0, b.Size()), b}, d), nil
}

func (l *layoutSource) ReaderAt(_ context.Context, d v1.Descriptor) (Blob, error) {
	b, err := l.tree.open(blobPath(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("%s: blob %s: %w", l.ref.Path, d.Digest, notFound(err))
	}
	if d.Size != 0 && b.Size() != d.Size {
		b.Close()
		return nil, fmt.Errorf("%s: blob %s: %w: has %d bytes, not %d", l.ref.Path, d.Digest, ErrDigest, b.Size(), d.Size)
	}
	return b, nil
}

func (l *layoutSource) Close() error {
	if l.closer != nil {
		return l.closer.Close()
	}
	return nil
}

// contextReader ends a local stream when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
	c   io.Closer
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func (c *contextReader) Close() error { return c.c.Close() }
