// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"lighter/format"
)

// Options of a conversion. The zero value is the default: this machine's
// platform, zstd, two-entry index.
type Options struct {
	Build        format.BuildOptions
	Dictionary   *Dictionary // chunks not to be stored again; nil: none. Takes the place of Build.ChunkDict
	Index        IndexMode   // "": IndexLazy
	Platforms    []v1.Platform
	AllPlatforms bool
	Jobs         int      // layers at a time; 0: one per CPU, at most 4
	Prefetch     []string // absolute paths to read ahead, written into the bootstrap
	OCIRef       bool     // the data stays in the source's layers, which come along; zran over gzip
	KeepTar      bool     // keep what gives the layers' very bytes again
	WorkDir      string   // for blobs in the making; "": the system's temporary directory
	Progress     Progress
}

// Target is where a conversion goes.
type Target struct {
	Sink       Sink
	Existing   Source // the same place, for reuse of what an earlier run left; may be nil
	Tag        string
	Repository string // "host/repository", "" outside registries
}

// Result tells what a conversion made.
type Result struct {
	Tag       string           `json:"tag"`
	Digest    v1.Hash          `json:"digest"`  // what the tag names
	Already   bool             `json:"already"` // the source was a Nydus image and passed unchanged
	Platforms []PlatformResult `json:"platforms"`
}

// PlatformResult is one platform of a Result.
type PlatformResult struct {
	Platform string        `json:"platform"`
	Boot     v1.Hash       `json:"boot"` // manifest with the bootstrap alone
	Full     v1.Hash       `json:"full"` // manifest with all blobs
	BootSize int64         `json:"bootSize"`
	Layers   []LayerResult `json:"layers"`
}

// LayerResult is one layer of a PlatformResult; sizes in stored bytes.
type LayerResult struct {
	Source     v1.Hash `json:"source"`
	Blob       v1.Hash `json:"blob"`
	SourceSize int64   `json:"sourceSize"`
	BlobSize   int64   `json:"blobSize"`
	How        Phase   `json:"how"` // done, reused or shared
}

type converter struct {
	src     Source
	srcName string
	sink    Sink
	target  Target
	o       Options
	work    string
	slots   chan struct{} // one per layer that may be in conversion
	flight  singleflight.Group
	mu      sync.Mutex
	made    map[v1.Hash]*layer // by source layer
}

// Convert makes a Nydus image of the ordinary image at src and puts it into the
// target, whose tag appears last. name is the source as written into the
// result, "" to leave it out. Convert commits the sink but does not close it.
func Convert(ctx context.Context, src Source, name string, t Target, o Options) (*Result, error) {
	if o.Index == "" {
		o.Index = IndexLazy
	}
	if o.Dictionary != nil {
		o.Build.ChunkDict = o.Dictionary.Chunks
	}
	if o.Jobs <= 0 {
		o.Jobs = min(runtime.GOMAXPROCS(0), 4)
	}
	root, err := src.Manifest(ctx, v1.Descriptor{})
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	wanted, err := o.choose(ctx, src, root)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	for _, w := range wanted {
		if isNydus(w.image) {
			o.Progress.send(Event{Phase: PhaseNote, Text: "the source is a Nydus image already; it is passed on unchanged"})
			return pass(ctx, src, root, t, o)
		}
	}
	work, err := os.MkdirTemp(o.WorkDir, "lighter-convert-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	c := &converter{src: src, srcName: name, sink: t.Sink, target: t, o: o, work: work, slots: make(chan struct{}, o.Jobs), made: map[v1.Hash]*layer{}}
	res, err := c.run(withMountFrom(ctx, src), wanted)
	if err != nil {
		return nil, err
	}
	return res, t.Sink.Commit(ctx)
}

// choose lists the images to convert: one per wanted platform.
func (o *Options) choose(ctx context.Context, src Source, root Manifest) ([]candidate, error) {
	if o.AllPlatforms {
		return candidates(ctx, src, root, func(v1.Platform) bool { return true })
	}
	if len(o.Platforms) == 0 && !root.MediaType.IsIndex() {
		return candidates(ctx, src, root, func(v1.Platform) bool { return true })
	}
	want := o.Platforms
	if len(want) == 0 {
		want = []v1.Platform{HostPlatform()}
	}
	var out []candidate
	for _, p := range want {
		found, err := candidates(ctx, src, root, func(have v1.Platform) bool { return matches(have, p) })
		if err != nil {
			return nil, err
		}
		if !root.MediaType.IsIndex() && !matches(found[0].platform, p) {
			return nil, fmt.Errorf("%w: the image is for %s, not %s", ErrNotFound, found[0].platform, p)
		}
		out = append(out, found[0])
	}
	return out, nil
}

// pass copies a source that needs no conversion.
func pass(ctx context.Context, src Source, root Manifest, t Target, o Options) (*Result, error) {
	if _, err := copyTree(withMountFrom(ctx, src), src, t.Sink, root, CopyOptions{Jobs: o.Jobs, Progress: o.Progress}, t.Tag); err != nil {
		return nil, err
	}
	return &Result{Tag: t.Tag, Digest: root.Digest, Already: true}, t.Sink.Commit(ctx)
}

func (c *converter) run(ctx context.Context, wanted []candidate) (*Result, error) {
	before, err := c.lookBack(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{Tag: c.target.Tag, Platforms: make([]PlatformResult, len(wanted))}
	trios := make([]trio, len(wanted))
	g, gctx := errgroup.WithContext(ctx)
	for i, w := range wanted {
		g.Go(func() error {
			var err error
			trios[i], res.Platforms[i], err = c.platform(gctx, before, w, i, len(wanted) > 1)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	top, err := c.top(trios)
	if err != nil {
		return nil, err
	}
	res.Digest = top.Digest
	return res, c.sink.PutManifest(ctx, top, c.target.Tag)
}

// top is the manifest that the target's tag names.
func (c *converter) top(trios []trio) (Manifest, error) {
	switch {
	case c.o.Index != IndexNone:
		return buildIndex(c.o.Index, trios)
	case len(trios) == 1:
		return trios[0].full, nil
	}
	return fullIndex(trios)
}

// platform converts one image: its layers, the bootstrap, both manifests.
func (c *converter) platform(ctx context.Context, before *earlier, w candidate, i int, several bool) (trio, PlatformResult, error) {
	t := trio{platform: w.platform, source: w.manifest}
	pr := PlatformResult{Platform: w.platform.String()}
	raw, err := readAll(ctx, c.src, w.image.Config)
	if err != nil {
		return t, pr, fmt.Errorf("config: %w", err)
	}
	config, err := parseConfig(raw)
	if err != nil {
		return t, pr, err
	}
	if len(config.rootfs.DiffIDs) != len(w.image.Layers) {
		return t, pr, fmt.Errorf("manifest %s: %d layers, but the config has %d diff ids", w.manifest.Digest, len(w.image.Layers), len(config.rootfs.DiffIDs))
	}
	layers, err := c.layers(ctx, before, w.image.Layers, config.rootfs.DiffIDs)
	if err != nil {
		return t, pr, err
	}
	merged := filepath.Join(c.work, fmt.Sprintf("image-%d.boot", i))
	blobs, err := mergeLayers(merged, layers, c.o.Prefetch)
	if err != nil {
		return t, pr, fmt.Errorf("merge: %w", err)
	}
	shared, err := c.dictLayers(ctx, blobs, layers)
	if err != nil {
		return t, pr, err
	}
	boot, err := packBootstrap(merged+".tar.gz", merged, layers, c.target.Repository)
	if err != nil {
		return t, pr, err
	}
	if _, err := c.sink.Put(ctx, boot.desc, func() (io.ReadCloser, error) { return os.Open(boot.file) }); err != nil {
		return t, pr, err
	}
	if err := c.manifests(ctx, &t, w, config, raw, layers, shared, boot, several); err != nil {
		return t, pr, err
	}
	pr.Boot, pr.Full, pr.BootSize = t.boot.Digest, t.full.Digest, boot.desc.Size
	for _, l := range layers {
		pr.Layers = append(pr.Layers, LayerResult{l.source.Digest, l.desc.Digest, l.source.Size, l.desc.Size, l.how})
	}
	return t, pr, nil
}

// manifests builds and puts a platform's manifests under their own tags.
func (c *converter) manifests(ctx context.Context, t *trio, w candidate, config *sourceConfig, raw []byte, layers, shared []*layer, boot bootLayer, several bool) error {
	ann := map[string]string{annFSVersion: fsVersion(c.o.Build), annSourceDigest: w.manifest.Digest.String()}
	if c.srcName != "" {
		ann[annSourceReference] = c.srcName
	}
	if c.target.Repository != "" {
		ann[annRepository] = c.target.Repository
	}
	bootTag, dataTag, srcTag := childTags(c.target.Tag, w.platform, several)
	var fullConfig, bootConfig blob
	var err error
	if c.o.KeepTar {
		tag := dataTag
		if c.o.Index == IndexNone && !several {
			tag = c.target.Tag
		}
		k, err := c.putKept(ctx, w.image.Config, raw, layers, config.rootfs.DiffIDs, tag)
		if err != nil {
			return err
		}
		ann[annKept] = k.Digest.String()
	}
	if t.full, fullConfig, err = fullManifest(config, layers, shared, boot, ann); err != nil {
		return err
	}
	if t.boot, bootConfig, err = bootManifest(config, boot, t.full.Digest, ann); err != nil {
		return err
	}
	if _, err := c.sink.Put(ctx, fullConfig.desc, fullConfig.open); err != nil {
		return err
	}
	if c.o.Index == IndexNone {
		if c.o.OCIRef {
			if _, err := copyTree(ctx, c.src, c.sink, w.manifest, CopyOptions{Jobs: c.o.Jobs, Progress: c.o.Progress}, srcTag); err != nil {
				return err
			}
		}
		return c.sink.PutManifest(ctx, t.full)
	}
	if _, err := c.sink.Put(ctx, bootConfig.desc, bootConfig.open); err != nil {
		return err
	}
	if err := c.sink.PutManifest(ctx, t.full, dataTag); err != nil {
		return err
	}
	if err := c.sink.PutManifest(ctx, t.boot, bootTag); err != nil {
		return err
	}
	if c.o.Index == IndexMerged || c.o.OCIRef { // what keeps the layers that hold the data
		_, err := copyTree(ctx, c.src, c.sink, w.manifest, CopyOptions{Jobs: c.o.Jobs, Progress: c.o.Progress}, srcTag)
		return err
	}
	return nil
}

// layers converts the layers of one image, lowest first in the result.
func (c *converter) layers(ctx context.Context, before *earlier, descs []v1.Descriptor, ids []v1.Hash) ([]*layer, error) {
	out := make([]*layer, len(descs))
	g, ctx := errgroup.WithContext(ctx)
	for i, d := range descs {
		g.Go(func() error {
			l, err := c.layer(ctx, before, d, ids[i])
			out[i] = l
			return err
		})
	}
	return out, g.Wait()
}

// layer gives the converted form of one source layer, made once per run however
// many images hold it.
func (c *converter) layer(ctx context.Context, before *earlier, d v1.Descriptor, id v1.Hash) (*layer, error) {
	mine := false
	v, err, _ := c.flight.Do(d.Digest.String(), func() (any, error) {
		c.mu.Lock()
		l := c.made[d.Digest]
		c.mu.Unlock()
		if l != nil {
			return l, nil
		}
		mine = true
		select {
		case c.slots <- struct{}{}:
			defer func() { <-c.slots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var err error
		if !c.o.KeepTar { // an earlier blob comes without
			l, err = c.reuse(ctx, before, d)
		}
		if err == nil && l == nil {
			l, err = c.buildLayer(ctx, d, id)
		}
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		c.made[d.Digest] = l
		c.mu.Unlock()
		return l, nil
	})
	if err != nil {
		return nil, err
	}
	l := *v.(*layer)
	if !mine {
		l.how = PhaseShared
	}
	c.o.Progress.send(Event{Phase: l.how, Layer: d.Digest.String(), Done: d.Size, Total: d.Size})
	return &l, nil
}
