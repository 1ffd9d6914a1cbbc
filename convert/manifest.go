// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Converted images are OCI images, whatever the source is: copying tools refuse
// a Docker manifest that lists data blobs.
const (
	mediaManifest  = types.OCIManifestSchema1
	mediaConfig    = types.OCIConfigJSON
	mediaBootstrap = types.OCILayer
)

// inlineCache is where BuildKit keeps a build cache in an image's config. It
// counts on the image's layers.
const inlineCache = "moby.buildkit.cache.v0"

type rootFS struct {
	Type    string    `json:"type"`
	DiffIDs []v1.Hash `json:"diff_ids"`
}

type historyEntry struct {
	Created    string `json:"created,omitempty"`
	Author     string `json:"author,omitempty"`
	CreatedBy  string `json:"created_by,omitempty"`
	Comment    string `json:"comment,omitempty"`
	EmptyLayer bool   `json:"empty_layer,omitempty"`
}

var bootstrapHistory = historyEntry{CreatedBy: HistoryBy, Comment: HistoryNote}

// sourceConfig is a config of which only diff ids and history are understood;
// all else passes through as it is.
type sourceConfig struct {
	fields  map[string]json.RawMessage
	rootfs  rootFS
	history []historyEntry
}

func parseConfig(raw []byte) (*sourceConfig, error) {
	c := &sourceConfig{}
	if err := json.Unmarshal(raw, &c.fields); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if err := json.Unmarshal(c.fields["rootfs"], &c.rootfs); err != nil {
		return nil, fmt.Errorf("config: rootfs: %w", err)
	}
	if h := c.fields["history"]; len(h) > 0 {
		if err := json.Unmarshal(h, &c.history); err != nil {
			return nil, fmt.Errorf("config: history: %w", err)
		}
	}
	return c, nil
}

// with gives the config's bytes with other diff ids and history; keys come out sorted.
func (c *sourceConfig) with(ids []v1.Hash, h []historyEntry) ([]byte, error) {
	fields := maps.Clone(c.fields)
	var err error
	if fields["rootfs"], err = json.Marshal(rootFS{"layers", ids}); err != nil {
		return nil, err
	}
	if fields["history"], err = json.Marshal(h); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(fields); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// fullHistory is the source's history and the bootstrap's entry. A history that
// does not fit the layers is replaced, since readers count on one entry for each.
// The dictionary's blobs, which are no layers of the source, follow those.
func (c *sourceConfig) fullHistory(layers, shared int) []historyEntry {
	n := 0
	for _, h := range c.history {
		if !h.EmptyLayer {
			n++
		}
	}
	h := append([]historyEntry{}, c.history...)
	if n != layers {
		h = nil
		for range layers {
			h = append(h, historyEntry{CreatedBy: HistoryBy})
		}
	}
	for range shared {
		h = append(h, historyEntry{CreatedBy: HistoryBy, Comment: "Nydus Chunk Dictionary Layer"})
	}
	return append(h, bootstrapHistory)
}

// blob is a small thing to be put: a config.
type blob struct {
	desc v1.Descriptor
	raw  []byte
}

func newBlob(raw []byte, mt types.MediaType) blob {
	return blob{v1.Descriptor{MediaType: mt, Digest: hashOf(raw), Size: int64(len(raw))}, raw}
}

func (b blob) open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.raw)), nil }

// plain leaves out what belongs to the entry of an index, not to the content.
func plainDescriptor(d v1.Descriptor) v1.Descriptor {
	return v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, Annotations: d.Annotations}
}

// fullManifest lists the data blobs, those of the dictionary behind the image's
// own, and, last, the bootstrap.
func fullManifest(src *sourceConfig, layers, shared []*layer, boot bootLayer, ann map[string]string) (Manifest, blob, error) {
	var ids []v1.Hash
	var descs []v1.Descriptor
	for _, l := range slices.Concat(layers, shared) {
		ids = append(ids, l.desc.Digest) // a blob counts as its own uncompressed form
		descs = append(descs, l.desc)
	}
	ids, descs = append(ids, boot.diffID), append(descs, boot.desc)
	return pack(src, ids, src.fullHistory(len(layers), len(shared)), descs, ann)
}

// bootManifest lists the bootstrap alone, so that pulling it moves no data.
func bootManifest(src *sourceConfig, boot bootLayer, full v1.Hash, ann map[string]string) (Manifest, blob, error) {
	ann = maps.Clone(ann)
	ann[annRole], ann[annFull] = roleBootstrap, full.String()
	src = &sourceConfig{fields: maps.Clone(src.fields)}
	delete(src.fields, inlineCache)
	return pack(src, []v1.Hash{boot.diffID}, []historyEntry{bootstrapHistory}, []v1.Descriptor{boot.desc}, ann)
}

func pack(src *sourceConfig, ids []v1.Hash, h []historyEntry, layers []v1.Descriptor, ann map[string]string) (Manifest, blob, error) {
	raw, err := src.with(ids, h)
	if err != nil {
		return Manifest{}, blob{}, err
	}
	config := newBlob(raw, mediaConfig)
	raw, err = json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: mediaManifest, Config: config.desc, Layers: layers, Annotations: ann})
	if err != nil {
		return Manifest{}, blob{}, err
	}
	return NewManifest(raw, mediaManifest), config, nil
}
