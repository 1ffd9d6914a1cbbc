// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/util/resolver"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/format"
	chunkcache "lighter/lazyfs/cache"
)

// recordKey is where a cache record says which image it is, and with a colon
// and the digest the index by which it is found.
const recordKey = "lighter.base"

// mountTimeout bounds the wait for a mount, which needs no network.
const mountTimeout = 60 * time.Second

// Options of New. All are required.
type Options struct {
	Dir      string // state, of this worker alone
	Sessions *session.Manager
	Hosts    docker.RegistryHosts
	Content  content.Store
}

// Bases is the accelerated images that one worker builds on. It is safe for
// concurrent use.
type Bases struct {
	o        Options
	store    store
	sessions sessions
	server   *server
	cache    cache.Manager
	leases   leases.Manager

	mu sync.Mutex // changes of the images on disk
}

// New takes the state in o.Dir over, which no other daemon may use. Nothing is
// mounted before it is needed.
func New(o Options) (*Bases, error) {
	b := &Bases{o: o, store: store{o.Dir}}
	if err := b.store.tidy(); err != nil {
		return nil, fmt.Errorf("accelerated images: %w", err)
	}
	b.server = &server{dir: o.Dir, data: &gateway{hosts: o.Hosts, manager: o.Sessions, sessions: &b.sessions, content: o.Content}}
	return b, nil
}

// Close unmounts everything and ends the server.
func (b *Bases) Close() error { return b.server.close() }

// Of gives the image that a cache record stands for, nil for any other record.
func (b *Bases) Of(r cache.RefMetadata) (*Image, error) {
	layer := r.GetString(recordKey)
	if layer == "" {
		return nil, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.store.load(digest.Digest(layer).Encoded())
}

func (b *Bases) mount(hex string) (string, error) {
	im, err := b.store.load(hex)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), mountTimeout)
	defer cancel()
	tree := b.store.tree(hex)
	if err := b.server.mount(ctx, hex, im, tree); err != nil {
		return "", fmt.Errorf("mount accelerated image %s: %w", im.Layer, err)
	}
	return tree, nil
}

func (b *Bases) likeRoot(dir, hex string) error {
	im, err := b.store.load(hex)
	if err != nil {
		return err
	}
	f, err := os.Open(im.Bootstrap())
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	boot, err := format.Open(f, fi.Size())
	if err != nil {
		return err
	}
	root, err := boot.Inode(boot.Info().RootNid)
	if err != nil {
		return err
	}
	if err := os.Chown(dir, int(root.UID), int(root.GID)); err != nil {
		return err
	}
	mode := fs.FileMode(root.Mode & 0o777)
	for bit, m := range map[uint32]fs.FileMode{0o1000: fs.ModeSticky, 0o2000: fs.ModeSetgid, 0o4000: fs.ModeSetuid} {
		if root.Mode&bit != 0 {
			mode |= m
		}
	}
	return os.Chmod(dir, mode)
}

// Provider reads data blobs of an image from where it came from, with the
// credentials of a build.
func (b *Bases) Provider(im *Image, s session.Group) content.InfoReaderProvider {
	return &provider{b, im, s}
}

type provider struct {
	b  *Bases
	im *Image
	s  session.Group
}

func (p *provider) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	for _, blob := range p.im.Blobs {
		if blob.Digest == d {
			return content.Info{Digest: d, Size: blob.Size}, nil
		}
	}
	return content.Info{}, fmt.Errorf("blob %s: %w", d, cerrdefs.ErrNotFound)
}

func (p *provider) ReaderAt(ctx context.Context, d ocispecs.Descriptor) (content.ReaderAt, error) {
	if _, err := p.Info(ctx, d.Digest); err != nil {
		return nil, err
	}
	failed := []error{fmt.Errorf("blob %s: %w", d.Digest, cerrdefs.ErrNotFound)}
	for i := len(p.im.Refs) - 1; i >= 0; i-- {
		ref := p.im.Refs[i]
		f, err := resolver.DefaultPool.GetResolver(p.b.o.Hosts, ref, resolver.ScopeType{}, p.b.o.Sessions, p.s).Fetcher(ctx, ref)
		if err == nil {
			var ra content.ReaderAt
			if ra, err = contentutil.FromFetcher(f).ReaderAt(ctx, d); err == nil {
				return ra, nil
			}
		}
		failed = append(failed, fmt.Errorf("%s: %w", ref, err))
	}
	return nil, errors.Join(failed...)
}

// Sizes gives the bytes that images and their cached chunks take, by cache
// record. A blob that several images have counts for one of them.
func (b *Bases) Sizes(ctx context.Context) (map[string]int64, error) {
	records, err := b.cache.Search(ctx, recordKey+":", true)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	chunks, err := chunkcache.Sizes(b.server.cacheDir())
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	seen := map[string]bool{}
	for _, r := range records {
		im, err := b.Of(r)
		if err != nil || im == nil || seen[im.dir] {
			continue // taken away meanwhile
		}
		seen[im.dir] = true
		entries, err := os.ReadDir(im.dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if fi, err := e.Info(); err == nil && e.Type().IsRegular() {
				out[r.ID()] += fi.Size()
			}
		}
		for _, blob := range im.Blobs {
			out[r.ID()] += chunks[blob.Digest.Encoded()]
			delete(chunks, blob.Digest.Encoded())
		}
	}
	return out, nil
}

// Sweep takes away images that no cache record stands for any more, and
// then the cached chunks that nothing is mounted for.
func (b *Bases) Sweep(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	all, err := b.store.list()
	if err != nil {
		return err
	}
	gone := false
	for _, hex := range all {
		records, err := b.cache.Search(ctx, recordKey+":"+hex, false)
		if err != nil {
			return err
		}
		if len(records) > 0 {
			continue
		}
		if err := b.server.unmount(ctx, hex); err != nil {
			bklog.G(ctx).WithError(err).Warnf("accelerated image %s is not unmounted by its server", hex)
		}
		if err := b.store.remove(hex); err != nil {
			return err
		}
		gone = true
	}
	if !gone {
		return nil
	}
	return b.server.prune(ctx)
}
