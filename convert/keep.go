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
)

// An image that keeps its tar data has one more manifest, named by an
// annotation of the full one and by a tag: it holds the source's config, and
// for each layer what its tar has besides files.
const (
	mediaKept       types.MediaType = "application/vnd.lighter.tar-split.v1+gzip"
	mediaKeptConfig types.MediaType = "application/vnd.lighter.source-config.v1+json"

	annKept   = "io.lighter.tar"     // full manifest: digest of that manifest
	annDiffID = "io.lighter.diff-id" // its layers: digest of the layer's tar
)

// keptTag names the manifest that keeps the tar data of the one named tag.
func keptTag(tag string) string { return tag + "-tar" }

// keeper runs splitTar beside the builder on the same bytes.
type keeper struct {
	file string
	w    *io.PipeWriter
	done chan error
}

// startKeeping begins a layer's kept tar data in the work directory. All that
// is written to the keeper goes into it.
func (c *converter) startKeeping(d v1.Descriptor) (*keeper, error) {
	k := &keeper{file: filepath.Join(c.work, d.Digest.Hex+".split"), done: make(chan error, 1)}
	out, err := os.OpenFile(k.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	var r *io.PipeReader
	r, k.w = io.Pipe()
	go func() {
		err := splitTar(out, r)
		if err != nil {
			io.Copy(io.Discard, r) // the builder goes on
		}
		k.done <- errors.Join(err, out.Close())
	}()
	return k, nil
}

func (k *keeper) Write(p []byte) (int, error) { return k.w.Write(p) }

// finish ends the data; kept is false when this layer's bytes cannot be given
// back from its blob.
func (k *keeper) finish(err error) (kept bool, _ error) {
	k.w.CloseWithError(err) // nil: the end
	split := <-k.done
	if err != nil {
		return false, nil
	}
	if errors.Is(split, errTwice) {
		return false, os.Remove(k.file)
	}
	return split == nil, split
}

// putKept puts the kept tar data of an image's layers and gives its manifest.
func (c *converter) putKept(ctx context.Context, config v1.Descriptor, raw []byte, layers []*layer, ids []v1.Hash, tag string) (Manifest, error) {
	conf := newBlob(raw, mediaKeptConfig)
	if _, err := c.sink.Put(ctx, conf.desc, conf.open); err != nil {
		return Manifest{}, err
	}
	man := v1.Manifest{SchemaVersion: 2, MediaType: mediaManifest, Config: conf.desc, Layers: []v1.Descriptor{},
		Annotations: map[string]string{annRole: roleKept, annMedia: string(config.MediaType)}}
	for i, l := range layers {
		if l.split == "" {
			c.o.Progress.send(Event{Phase: PhaseNote, Text: fmt.Sprintf("layer %s: %v, so its bytes cannot be kept", l.source.Digest, errTwice)})
			continue
		}
		d, err := fileDescriptor(l.split)
		if err != nil {
			return Manifest{}, err
		}
		d.MediaType = mediaKept
		d.Annotations = map[string]string{annSourceDigest: l.source.Digest.String(), annDiffID: ids[i].String()}
		if _, err := c.sink.Put(ctx, d, func() (io.ReadCloser, error) { return os.Open(l.split) }); err != nil {
			return Manifest{}, err
		}
		man.Layers = append(man.Layers, d)
	}
	bytes, err := json.Marshal(man)
	if err != nil {
		return Manifest{}, err
	}
	m := NewManifest(bytes, mediaManifest)
	return m, c.sink.PutManifest(ctx, m, keptTag(tag))
}

func fileDescriptor(name string) (d v1.Descriptor, err error) {
	f, err := os.Open(name)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	d.Size, err = io.Copy(h, f)
	d.Digest = sumOf(h)
	return d, err
}

// kept is an image's kept tar data.
type kept struct {
	config []byte
	media  types.MediaType           // of the config
	layers map[v1.Hash]v1.Descriptor // by source layer
}

// openKept finds what an image keeps; nil: nothing.
func (im *Image) openKept(ctx context.Context) (*kept, error) {
	at, err := v1.NewHash(im.Spec.Annotations[annKept])
	if err != nil {
		return nil, nil
	}
	m, err := im.Source.Manifest(ctx, v1.Descriptor{Digest: at})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	man, err := parseManifest(m)
	if err != nil {
		return nil, err
	}
	k := &kept{media: types.MediaType(man.Annotations[annMedia]), layers: map[v1.Hash]v1.Descriptor{}}
	if k.config, err = readAll(ctx, im.Source, man.Config); err != nil {
		return nil, err
	}
	for _, d := range man.Layers {
		from, err := v1.NewHash(d.Annotations[annSourceDigest])
		if err != nil || d.MediaType != mediaKept {
			return nil, fmt.Errorf("manifest %s: layer %s is no kept tar data", m.Digest, d.Digest)
		}
		k.layers[from] = d
	}
	return k, nil
}
