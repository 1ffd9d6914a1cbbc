// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"lighter/convert"
	"lighter/lazyfs"
	"lighter/lazyfs/backend"
	"lighter/lazyfs/mounts"
)

// known is what the cache remembers of a bootstrap layer that was fetched and
// verified. The bootstrap is compared with Digest again at every mount.
type known struct {
	Reference string `json:"reference"`
	Platform  string `json:"platform,omitempty"` // as asked for
	Layer     string `json:"layer"`              // digest of the bootstrap layer, hex
	Digest    string `json:"digest"`             // of the bootstrap, "sha256:…"
}

// bootDir holds a bootstrap layer's files, named by the layer's digest.
func bootDir(cache, layer string) string { return filepath.Join(cache, "bootstraps", layer) }

// knownFile remembers a reference; its name is a hash, for references hold slashes.
func knownFile(cache, ref, platform string) string {
	sum := sha256.Sum256([]byte(ref + "\x00" + platform))
	return filepath.Join(cache, "references", hex.EncodeToString(sum[:])+".json")
}

// prepare finds the image and puts its bootstrap into the cache. When offline,
// the cache must know both.
func (f *mountFlags) prepare(ctx context.Context, name, cache string) (*mountable, error) {
	ref, err := convert.ParseReference(name, f.plainHTTP)
	if err != nil {
		return nil, err
	}
	if ref.Kind == convert.KindLayout || ref.Kind == convert.KindOCIArchive {
		if ref.Path, err = filepath.Abs(ref.Path); err != nil {
			return nil, err
		}
	}
	m := &mountable{}
	var k known
	if f.offline {
		k, err = recall(knownFile(cache, ref.String(), f.platform), name)
	} else {
		k, err = f.fetch(ctx, ref, cache)
	}
	if err != nil {
		return nil, err
	}
	dir := bootDir(cache, k.Layer)
	m.spec = mounts.Spec{Bootstrap: filepath.Join(dir, "image.boot"), Digest: k.Digest, MetaDir: dir, Probe: !f.offline}
	return m, f.way(ctx, m, ref)
}

// way fills in where the data comes from.
func (f *mountFlags) way(ctx context.Context, m *mountable, ref convert.Reference) error {
	switch {
	case ref.Kind == convert.KindLayout:
		m.spec.BlobDirs = []string{ref.Path}
		m.opener = backend.NewDir(ref.Path)
	case ref.Kind == convert.KindRegistry && f.offline:
		m.opener = noNetwork{}
	case ref.Kind == convert.KindRegistry:
		o := backend.RegistryOptions{Keychain: backend.NewKeychain(), CertsDir: certsDir}
		if f.plainHTTP {
			o.PlainHTTP = func(string) bool { return true }
		}
		r := backend.NewRegistry(o)
		m.spec.Repositories = []string{ref.Repository()}
		m.opener, m.ended = r.Repository(ref.Repository()), r.Close
	default:
		src, err := convert.OpenSource(ctx, ref, f.io(0))
		if err != nil {
			return err
		}
		m.opener, m.ended = archiveBlobs{src}, func() { src.Close() }
	}
	return nil
}

// fetch resolves the reference and unpacks its bootstrap layer, unless the cache has that.
func (f *mountFlags) fetch(ctx context.Context, ref convert.Reference, cache string) (known, error) {
	want, err := f.wanted()
	if err != nil {
		return known{}, err
	}
	src, err := convert.OpenSource(ctx, ref, f.io(0))
	if err != nil {
		return known{}, err
	}
	defer src.Close()
	im, err := convert.OpenImage(ctx, src, want)
	if err != nil {
		return known{}, err
	}
	layer, err := im.BootstrapLayer()
	if err != nil {
		return known{}, err
	}
	k := known{Reference: ref.String(), Platform: f.platform, Layer: layer.Digest.Hex}
	tmp, err := tempDir(cache)
	if err != nil {
		return k, err
	}
	defer os.RemoveAll(tmp)
	u, err := convert.UnpackBootstrap(ctx, src, layer, tmp)
	if err != nil {
		return k, err
	}
	k.Digest = u.Digest.String()
	if err := place(tmp, bootDir(cache, k.Layer)); err != nil {
		return k, err
	}
	return k, remember(knownFile(cache, k.Reference, k.Platform), k)
}

func tempDir(cache string) (string, error) {
	parent := filepath.Join(cache, "bootstraps")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(parent, ".tmp-")
}

// place gives a complete directory its name, instead of what an earlier run put there.
func place(tmp, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

func remember(name string, k known) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return err
	}
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func recall(name, image string) (known, error) {
	var k known
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return k, fmt.Errorf("%s: the cache does not know this image (hint: mount it once without --offline)", image)
	}
	if err == nil {
		err = json.Unmarshal(raw, &k)
	}
	if err == nil && (len(k.Layer) != 64 || filepath.Base(k.Layer) != k.Layer || k.Digest == "") {
		err = errors.New("damaged")
	}
	if err != nil {
		return k, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

// noNetwork is where data comes from when nothing may be asked.
type noNetwork struct{}

func (noNetwork) Open(_ context.Context, id string) (lazyfs.Source, error) {
	return nil, fmt.Errorf("blob %s: %w: not in the cache, and mounted with --offline", id, fs.ErrPermission)
}

// archiveBlobs are the blobs inside an archive.
type archiveBlobs struct{ src convert.Source }

func (a archiveBlobs) Open(ctx context.Context, id string) (lazyfs.Source, error) {
	b, err := convert.BlobByID(ctx, a.src, id)
	if errors.Is(err, convert.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	return archiveBlob{b}, nil
}

type archiveBlob struct{ b convert.Blob }

func (a archiveBlob) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return a.b.ReadAt(p, off)
}

func (a archiveBlob) Size() int64 { return a.b.Size() }
