// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/containerd/v2/pkg/epoch"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	bkepoch "github.com/moby/buildkit/exporter/util/epoch"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/errutil"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/util/push"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/convert"
	"lighter/exporter/lazybase"
)

// child is one manifest below the index that needs a tag of its own.
type child struct {
	digest digest.Digest
	suffix string // of the tag
}

// lazyIndex is a finished image with its index, in the content store.
type lazyIndex struct {
	*instance
	desc      ocispecs.Descriptor
	names     []string
	children  []child
	sessionID string
	bases     []*lazybase.Image // whose data blobs may not be here
}

// lead writes the index that leads with the bootstrap alone over what BuildKit
// wrote, a manifest or an index, names it, and corrects the response. The
// ordinary image, if there is one, comes last.
func (i *instance) lead(ctx context.Context, root ocispecs.Descriptor, ordinary *ocispecs.Descriptor, src *exporter.Source, info exporter.ExportBuildInfo, resp map[string]string) (*lazyIndex, error) {
	l := &lazyIndex{instance: i, names: i.o.names, sessionID: info.SessionID, bases: basesOf(src)}
	store := i.worker.blobs.content
	m, err := readManifest(ctx, store, root)
	if err != nil {
		return nil, err
	}
	platform, err := platformOf(src, root)
	if err != nil {
		return nil, err
	}
	several := m.MediaType.IsIndex() && len(src.Refs) > 1
	idx, err := convert.AddTwins(m, platform, func(d v1.Descriptor) (v1.Descriptor, error) {
		twin, err := l.twin(ctx, store, d)
		if err != nil {
			return v1.Descriptor{}, err
		}
		p := platform
		if d.Platform != nil {
			p = *d.Platform
		}
		boot, data := convert.ChildTags("", p, several)
		l.children = append(l.children, child{digest.Digest(d.Digest.String()), data}, child{digest.Digest(twin.Digest.String()), boot})
		return twin, nil
	})
	if err == nil && ordinary != nil {
		idx, err = l.addOrdinary(ctx, store, idx, *ordinary, platform, several)
	}
	if err != nil {
		return nil, err
	}
	done := progress.OneOff(ctx, "exporting index "+idx.Digest.String())
	refs, err := entries(idx)
	if err == nil {
		l.desc, err = writeManifest(ctx, store, idx.Raw, string(idx.MediaType), refs)
	}
	if done(err) != nil {
		return nil, err
	}
	l.desc.Annotations = root.Annotations
	if err := l.name(ctx, src); err != nil {
		return nil, err
	}
	return l, l.respond(resp)
}

// platformOf is what a single manifest runs on.
func platformOf(src *exporter.Source, root ocispecs.Descriptor) (v1.Platform, error) {
	p := platforms.Normalize(platforms.DefaultSpec())
	if root.Platform != nil {
		p = *root.Platform
	} else if ps, err := exptypes.ParsePlatforms(src.Metadata); err != nil {
		return v1.Platform{}, err
	} else if len(ps.Platforms) == 1 {
		p = ps.Platforms[0].Platform
	}
	return v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion}, nil
}

// twin stores the bootstrap-only manifest of a full one, and its config.
func (l *lazyIndex) twin(ctx context.Context, store content.Store, full v1.Descriptor) (v1.Descriptor, error) {
	m, err := readManifest(ctx, store, ocispecs.Descriptor{MediaType: string(full.MediaType), Digest: digest.Digest(full.Digest.String()), Size: full.Size})
	if err != nil {
		return v1.Descriptor{}, err
	}
	var im ocispecs.Manifest
	if err := json.Unmarshal(m.Raw, &im); err != nil {
		return v1.Descriptor{}, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	config, err := content.ReadBlob(ctx, store, im.Config)
	if err != nil {
		return v1.Descriptor{}, err
	}
	twin, err := convert.BootstrapTwin(m, config)
	if err != nil {
		return v1.Descriptor{}, err
	}
	configDigest := digest.FromBytes(twin.Config)
	err = content.WriteBlob(ctx, store, configDigest.String(), bytes.NewReader(twin.Config), ocispecs.Descriptor{Digest: configDigest, Size: int64(len(twin.Config))})
	if err != nil {
		return v1.Descriptor{}, err
	}
	boot := im.Layers[len(im.Layers)-1].Digest
	_, err = writeManifest(ctx, store, twin.Manifest.Raw, string(twin.Manifest.MediaType), []digest.Digest{configDigest, boot})
	return twin.Manifest.Descriptor(), err
}

func readManifest(ctx context.Context, store content.Store, d ocispecs.Descriptor) (convert.Manifest, error) {
	raw, err := content.ReadBlob(ctx, store, d)
	if err != nil {
		return convert.Manifest{}, err
	}
	return convert.NewManifest(raw, types.MediaType(d.MediaType)), nil
}

// writeManifest stores a manifest or an index that keeps what it lists from
// being collected.
func writeManifest(ctx context.Context, store content.Store, raw []byte, mediaType string, children []digest.Digest) (ocispecs.Descriptor, error) {
	keep := map[string]string{}
	for i, c := range children {
		keep[fmt.Sprintf("containerd.io/gc.ref.content.%d", i)] = c.String()
	}
	d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	err := content.WriteBlob(ctx, store, d.Digest.String(), bytes.NewReader(raw), d, content.WithLabels(keep))
	return d, err
}

func entries(idx convert.Manifest) ([]digest.Digest, error) {
	var parsed ocispecs.Index
	if err := json.Unmarshal(idx.Raw, &parsed); err != nil {
		return nil, err
	}
	var out []digest.Digest
	for _, d := range parsed.Manifests {
		out = append(out, d.Digest)
	}
	return out, nil
}

// name completes the names and enters them into the worker's image store, if it has one.
func (l *lazyIndex) name(ctx context.Context, src *exporter.Source) error {
	if n, ok := src.Metadata[exptypes.ExporterImageNameKey]; ok && len(l.names) == 1 && l.names[0] == "*" {
		l.names = splitNames(string(n))
	}
	canonical := l.o.nameCanonical
	if l.o.danglingPrefix != "" && (!l.o.danglingOnly || len(l.names) == 0) {
		if len(l.names) == 0 {
			canonical = false
		}
		l.names = append(l.names[:len(l.names):len(l.names)], l.o.danglingPrefix+"@"+l.desc.Digest.String())
	}
	if l.worker.ImageStore == nil || !l.o.store {
		return nil
	}
	if e, _, err := bkepoch.ParseExporterAttrs(l.attrs); err == nil && e != nil && e.Value != nil {
		ctx = epoch.WithSourceDateEpoch(ctx, e.Value)
	}
	for _, name := range l.names {
		all := []string{name}
		if canonical && !strings.Contains(name, "@") {
			all = append(all, name+"@"+l.desc.Digest.String())
		}
		for _, n := range all {
			done := progress.OneOff(ctx, "naming to "+n)
			if err := done(enter(ctx, l.worker.ImageStore, images.Image{Name: n, Target: l.desc})); err != nil {
				return err
			}
		}
	}
	return nil
}

// enter creates or updates an image's name, also when another does so meanwhile.
func enter(ctx context.Context, store images.Store, im images.Image) error {
	for {
		_, err := store.Update(ctx, im)
		if !cerrdefs.IsNotFound(err) {
			return err
		}
		if _, err = store.Create(ctx, im); !cerrdefs.IsAlreadyExists(err) {
			return err
		}
	}
}

// respond tells the client of the index in place of what it was made of.
func (l *lazyIndex) respond(resp map[string]string) error {
	if len(l.names) > 0 {
		resp[exptypes.ExporterImageNameKey] = strings.Join(l.names, ",")
	}
	resp[exptypes.ExporterImageDigestKey] = l.desc.Digest.String()
	raw, err := json.Marshal(l.desc)
	if err != nil {
		return err
	}
	resp[exptypes.ExporterImageDescriptorKey] = base64.StdEncoding.EncodeToString(raw)
	return nil
}

func (l *lazyIndex) descriptor(release func(context.Context) error) exporter.DescriptorReference {
	return containerimage.NewDescriptorReference(l.desc, release)
}

// finalize gives the push, nil if none is wanted.
func (l *lazyIndex) finalize() exporter.FinalizeFunc {
	if !l.o.push || len(l.names) == 0 {
		return nil
	}
	return func(ctx context.Context) error {
		for _, name := range l.names {
			if err := l.pushTo(ctx, name); err != nil {
				var status remoteserrors.ErrUnexpectedStatus
				if errors.As(err, &status) {
					err = errutil.WithDetails(err)
				}
				return fmt.Errorf("push %s: %w", name, err)
			}
		}
		return nil
	}
}

// pushTo pushes the children under tags of their own, full manifest first, and
// the index last, so that the name never leads to something incomplete.
func (l *lazyIndex) pushTo(ctx context.Context, name string) error {
	parsed, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	tagged, ok := reference.TagNameOnly(parsed).(reference.Tagged)
	if ok && !l.o.pushByDigest {
		for _, c := range l.children {
			if err := l.pushOne(ctx, parsed.Name()+":"+tagged.Tag()+c.suffix, c.digest); err != nil {
				return err
			}
		}
	}
	return l.pushOne(ctx, name, l.desc.Digest)
}

func (l *lazyIndex) pushOne(ctx context.Context, name string, d digest.Digest) error {
	store := l.worker.blobs.content
	var hosts docker.RegistryHosts = l.worker.RegistryHosts
	from := map[digest.Digest]map[string]string{}
	for _, im := range l.bases {
		for _, d := range baseDescriptors(im) {
			from[d.Digest] = d.Annotations
		}
	}
	blobs := l.worker.blobs.provider(l.bases, session.NewGroup(l.sessionID))
	return push.Push(ctx, l.sessions, l.sessionID, blobs, store, d, name, l.o.insecure, hosts, l.o.pushByDigest, from)
}
