// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"lighter/convert"
	"lighter/format"
)

// Image is what is kept of an accelerated image.
type Image struct {
	// Layer is the digest of the bootstrap layer, by which the image is known.
	Layer digest.Digest `json:"layer"`
	// Digest is "sha256:…" of the uncompressed bootstrap.
	Digest string `json:"digest"`
	// Blobs are the data blobs as the full manifest lists them, lowest first.
	Blobs []ocispecs.Descriptor `json:"blobs"`
	// Refs are the references that led to the image, the latest last.
	Refs []string `json:"refs"`

	dir string
}

const (
	infoName = "base.json"
	bootName = "image.boot"
	treeName = "tree"
)

// Bootstrap is the file of the merged bootstrap.
func (im *Image) Bootstrap() string { return filepath.Join(im.dir, bootName) }

// Metas are the files <hex>.blob.meta by blob id.
func (im *Image) Metas() (map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(im.dir, "*.blob.meta"))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, f := range files {
		out[filepath.Base(f)[:64]] = f
	}
	return out, nil
}

// Repositories are "host/repository" of Refs, the latest first.
func (im *Image) Repositories() []string {
	var out []string
	for _, ref := range slices.Backward(im.Refs) {
		if r := repositoryOf(ref); r != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

func repositoryOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return named.Name()
}

// store is the images on disk. It takes no locks.
type store struct{ dir string }

var hexName = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (s store) path(hex string) string { return filepath.Join(s.dir, "images", hex) }
func (s store) tree(hex string) string { return filepath.Join(s.path(hex), treeName) }

// list gives the images' names.
func (s store) list() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "images"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if hexName.MatchString(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// load reads an image; the error wraps fs.ErrNotExist without one.
func (s store) load(hex string) (*Image, error) {
	if !hexName.MatchString(hex) {
		return nil, fmt.Errorf("accelerated image %q: is no digest", hex)
	}
	raw, err := os.ReadFile(filepath.Join(s.path(hex), infoName))
	if err != nil {
		return nil, fmt.Errorf("accelerated image: %w", err)
	}
	im := &Image{dir: s.path(hex)}
	if err := json.Unmarshal(raw, im); err != nil {
		return nil, fmt.Errorf("accelerated image %s: %s: %w", hex, infoName, err)
	}
	return im, nil
}

// addRef notes that ref led to the image as well.
func (s store) addRef(im *Image, ref string) error {
	if n := len(im.Refs); n > 0 && im.Refs[n-1] == ref {
		return nil
	}
	im.Refs = append(slices.DeleteFunc(slices.Clone(im.Refs), func(r string) bool { return r == ref }), ref)
	if len(im.Refs) > mostRefs {
		im.Refs = im.Refs[len(im.Refs)-mostRefs:]
	}
	return writeInfo(im)
}

// mostRefs bounds what an image that is built again and again leaves behind.
const mostRefs = 16

func writeInfo(im *Image) error {
	raw, err := json.Marshal(im)
	if err != nil {
		return err
	}
	name := filepath.Join(im.dir, infoName)
	if err := os.WriteFile(name+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// unpack makes the files of an image from its bootstrap layer in a directory of
// their own, which place moves to where they belong, or the caller removes.
func (s store) unpack(r io.Reader, layer ocispecs.Descriptor) (im *Image, err error) {
	dir, err := os.MkdirTemp(s.dir, "new-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	in := &verified{r: r, v: layer.Digest.Verifier(), left: layer.Size}
	u, err := convert.ReadBootstrap(in, v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: layer.Digest.Encoded()}, Size: layer.Size}, dir)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, treeName), 0o755); err != nil {
		return nil, err
	}
	return &Image{Layer: layer.Digest, Digest: u.Digest.String(), dir: dir}, checkBootstrap(u.Bootstrap, u.Size)
}

func checkBootstrap(name string, size int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = format.Open(f, size)
	return err
}

// place moves what unpack made to its name. All of it is on disk then.
func (s store) place(im *Image) error {
	if err := writeInfo(im); err != nil {
		return err
	}
	if err := syncTree(im.dir); err != nil {
		return err
	}
	target := s.path(im.Layer.Encoded())
	if err := os.Rename(im.dir, target); err != nil {
		return err
	}
	im.dir = target
	return syncFile(filepath.Dir(target))
}

func syncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() {
			if err := syncFile(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return syncFile(dir)
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// remove takes an image away, mount and all; who still uses the mount can go on.
func (s store) remove(hex string) error {
	if err := detach(s.tree(hex)); err != nil {
		return err
	}
	return os.RemoveAll(s.path(hex))
}

// tidy takes away what a killed daemon left: dead mounts and halves of images.
func (s store) tidy() error {
	if err := os.MkdirAll(filepath.Join(s.dir, "images"), 0o700); err != nil {
		return err
	}
	halves, err := filepath.Glob(filepath.Join(s.dir, "new-*"))
	if err != nil {
		return err
	}
	for _, dir := range halves {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	all, err := s.list()
	if err != nil {
		return err
	}
	for _, hex := range all {
		if err := detach(s.tree(hex)); err != nil {
			return err
		}
	}
	return nil
}

// detach unmounts all that is mounted on a directory, which need not exist.
func detach(dir string) error {
	for {
		switch err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			return nil
		default:
			return &os.PathError{Op: "unmount", Path: dir, Err: err}
		}
	}
}

// verified fails instead of giving io.EOF if the bytes do not fit a descriptor.
type verified struct {
	r    io.Reader
	v    digest.Verifier
	left int64
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.v.Write(p[:n])
	if v.left -= int64(n); v.left < 0 || errors.Is(err, io.EOF) && (v.left != 0 || !v.v.Verified()) {
		return n, convert.ErrDigest
	}
	return n, err
}

// fetchLayer unpacks the bootstrap layer that a provider has.
func (s store) fetchLayer(ctx context.Context, p content.Provider, layer ocispecs.Descriptor) (*Image, error) {
	ra, err := p.ReaderAt(ctx, layer)
	if err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", layer.Digest, err)
	}
	defer ra.Close()
	return s.unpack(io.NewSectionReader(ra, 0, layer.Size), layer)
}

// discard removes what unpack made and place did not move.
func (s store) discard(im *Image) {
	if filepath.Dir(im.dir) == filepath.Clean(s.dir) {
		os.RemoveAll(im.dir)
	}
}
