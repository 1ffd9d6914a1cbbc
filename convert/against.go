// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"lighter/format"
)

// OpenTree opens the tree of any image. Of an ordinary one, all layers are
// fetched, verified by digest and diff id, and merged; its data stays behind: it has digests only, of chunks
// of the size and digester of like (nil: the defaults). dir holds temporary files. The tree must be closed.
func OpenTree(ctx context.Context, im *Image, dir string, like *format.Info) (Tree, io.Closer, error) {
	if im.Kind != KindOrdinary {
		o, err := im.Open(ctx, dir)
		if err != nil {
			return Tree{}, nil, err
		}
		return Tree{o.Bootstrap, o.OpenBlob}, o, nil
	}
	none := format.None
	c := &converter{src: im.Source, work: dir, o: Options{Build: format.BuildOptions{Compressor: &none}}}
	if like != nil {
		c.o.Build.ChunkSize, c.o.Build.Digester = like.ChunkSize, like.Digester
	}
	layers, err := c.trees(ctx, im)
	if err != nil {
		return Tree{}, nil, err
	}
	name := filepath.Join(dir, "merged.boot")
	if _, err := mergeLayers(name, layers, nil); err != nil {
		return Tree{}, nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return Tree{}, nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return Tree{}, nil, err
	}
	b, err := format.Open(f, st.Size())
	if err != nil {
		f.Close()
		return Tree{}, nil, err
	}
	return Tree{Bootstrap: b}, f, nil
}

// trees builds the layers of an ordinary image and keeps their bootstraps.
func (c *converter) trees(ctx context.Context, im *Image) ([]*layer, error) {
	config, err := im.Config(ctx)
	if err != nil {
		return nil, err
	}
	if len(config.RootFS.DiffIDs) != len(im.Spec.Layers) {
		return nil, fmt.Errorf("manifest %s: %d layers, but the config has %d diff ids", im.Manifest.Digest, len(im.Spec.Layers), len(config.RootFS.DiffIDs))
	}
	var layers []*layer
	for i, d := range im.Spec.Layers {
		if err := tarLayer(d); err != nil {
			return nil, err
		}
		l := &layer{source: d}
		l.source.Digest.Hex = fmt.Sprint(i) // names the files
		built, err := c.build(ctx, io.Discard, d, config.RootFS.DiffIDs[i])
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		l.desc.Digest = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", built.Digest)}
		if err := c.keep(l, built.Bootstrap, nil); err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// Against tells how an image and the ordinary one that it should be of differ.
type Against struct {
	Source      v1.Hash      `json:"source"` // manifest of the ordinary image
	Entries     uint64       `json:"entries"`
	Differences []Difference `json:"differences"`
}

// CheckAgainst compares a Nydus image with the ordinary image that it was made
// of: manifest, config, every entry, and every byte by digests that the caller
// has to have verified (Check). dir holds temporary files.
func CheckAgainst(ctx context.Context, im, source *Image, dir string) (*Against, []string, error) {
	if im.Kind == KindOrdinary {
		return nil, nil, fmt.Errorf("manifest %s: %w", im.Manifest.Digest, ErrOrdinary)
	}
	sub := [2]string{filepath.Join(dir, "image"), filepath.Join(dir, "source")}
	for _, d := range sub {
		if err := os.Mkdir(d, 0o700); err != nil {
			return nil, nil, err
		}
	}
	a := &Against{Source: source.Manifest.Digest}
	problems, err := againstManifest(ctx, im, source)
	if err != nil {
		return nil, nil, err
	}
	have, closer, err := OpenTree(ctx, im, sub[0], nil)
	if err != nil {
		return nil, nil, err
	}
	defer closer.Close()
	info := have.Bootstrap.Info()
	want, closer2, err := OpenTree(ctx, source, sub[1], &info)
	if err != nil {
		return nil, nil, fmt.Errorf("source: %w", err)
	}
	defer closer2.Close()
	a.Entries = want.Bootstrap.Info().Inodes
	err = CompareTrees(ctx, want, have, func(d Difference) error {
		a.Differences = append(a.Differences, d)
		problems = append(problems, fmt.Sprintf("%s: %s%s", d.Path, d.Change, list(d.What)))
		if len(problems) >= maxProblems {
			return errTooMany
		}
		return nil
	})
	if errors.Is(err, errTooMany) {
		err = nil
	}
	return a, problems, err
}

func list(what []string) string {
	if len(what) == 0 {
		return ""
	}
	return " (" + strings.Join(what, ", ") + ")"
}

// againstManifest compares what the manifest says of its source, and the configs.
func againstManifest(ctx context.Context, im, source *Image) (problems []string, err error) {
	if from := im.Spec.Annotations[annSourceDigest]; from != "" && from != source.Manifest.Digest.String() {
		problems = append(problems, fmt.Sprintf("manifest: was made of %s, not of %s", from, source.Manifest.Digest))
	}
	if im.Kind == KindNydus && len(im.Spec.Layers) > 1 && source.Kind == KindOrdinary {
		problems = append(problems, againstLayers(im.Spec.Layers, source.Spec.Layers)...)
	}
	var raw [2][]byte
	for k, x := range []*Image{im, source} {
		if raw[k], err = readAll(ctx, x.Source, x.Spec.Config); err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
	}
	have, err := parseConfig(raw[0])
	if err != nil {
		return nil, err
	}
	want, err := parseConfig(raw[1])
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	for _, key := range unionKeys(have.fields, want.fields) {
		if key == "rootfs" || key == "history" {
			continue // those of the layers
		}
		if !sameJSON(have.fields[key], want.fields[key]) {
			problems = append(problems, fmt.Sprintf("config: %q differs", key))
		}
	}
	return problems, nil
}

// againstLayers compares what data blobs say of their source with its layers.
func againstLayers(blobs, layers []v1.Descriptor) (problems []string) {
	var from []string
	for _, d := range blobs {
		if s := SourceOf(d); s != "" {
			from = append(from, s)
		} else if s := d.Annotations[annRef]; s != "" {
			from = append(from, s)
		}
	}
	if len(from) == 0 {
		return nil // other converters do not tell
	}
	var want []string
	for _, d := range layers {
		want = append(want, d.Digest.String())
	}
	if !slices.Equal(from, want) {
		problems = append(problems, fmt.Sprintf("manifest: blobs were made of %d layers that are not the source's %d", len(from), len(want)))
	}
	return problems
}

func unionKeys(a, b map[string]json.RawMessage) []string {
	var keys []string
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// sameJSON compares values; the order of keys does not count.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return bytes.Equal(a, b)
	}
	return reflect.DeepEqual(x, y)
}
