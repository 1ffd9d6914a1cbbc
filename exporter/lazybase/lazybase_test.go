// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/sys/user"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"lighter/convert"
	"lighter/format"
)

// bootLayer is a bootstrap layer of an image with one directory.
func bootLayer(t *testing.T) ([]byte, ocispecs.Descriptor) {
	t.Helper()
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o1750, Uid: os.Getuid(), Gid: os.Getgid()}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	built, err := format.BuildLayer(io.Discard, &in, format.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := convert.PackParts(t.TempDir(), []convert.Part{{Bootstrap: merged(t, built)}}, "host/repo", nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(p.File)
	if err != nil {
		t.Fatal(err)
	}
	return raw, ocispecs.Descriptor{MediaType: string(p.Descriptor.MediaType), Digest: digest.Digest(p.Descriptor.Digest.String()), Size: p.Descriptor.Size, Annotations: p.Descriptor.Annotations}
}

func merged(t *testing.T, l *format.Layer) []byte {
	t.Helper()
	b, err := format.Open(bytes.NewReader(l.Bootstrap), int64(len(l.Bootstrap)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := format.Merge(&out, []format.MergeLayer{{ID: strings.Repeat("0", 64), Bootstrap: b}}, format.MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func newStore(t *testing.T) store {
	t.Helper()
	s := store{t.TempDir()}
	if err := s.tidy(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	s := newStore(t)
	raw, d := bootLayer(t)
	damaged := bytes.Clone(raw)
	damaged[9]++ // of the gzip header: the content stays
	short := d
	short.Size--
	for name, try := range map[string]func() (*Image, error){
		"damaged":   func() (*Image, error) { return s.unpack(bytes.NewReader(damaged), d) },
		"cut short": func() (*Image, error) { return s.unpack(bytes.NewReader(raw[:len(raw)-1]), d) },
		"too long":  func() (*Image, error) { return s.unpack(bytes.NewReader(raw), short) },
	} {
		if _, err := try(); !errors.Is(err, convert.ErrDigest) {
			t.Errorf("%s layer: %v", name, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.dir, "new-*")); len(left) > 0 {
		t.Errorf("failed unpacking leaves %v", left)
	}
	im, err := s.unpack(bytes.NewReader(raw), d)
	if err != nil {
		t.Fatal(err)
	}
	hex := d.Digest.Encoded()
	if _, err := s.load(hex); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image that is not in its place: %v", err)
	}
	im.Blobs, im.Refs = []ocispecs.Descriptor{{Digest: d.Digest, Size: 5}}, []string{"host:5000/one:tag"}
	if err := s.place(im); err != nil {
		t.Fatal(err)
	}
	s.discard(im) // does nothing any more
	for range 2 {
		if err := s.addRef(im, "docker.io/library/two:tag"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.load(hex)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"docker.io/library/two", "host:5000/one"}; !slices.Equal(got.Repositories(), want) || len(got.Blobs) != 1 || got.Digest != im.Digest {
		t.Errorf("loaded %+v, with repositories %v", got, got.Repositories())
	}
	for i := range 3 * mostRefs {
		if err := s.addRef(got, "host/many:"+string(rune('a'+i))); err != nil {
			t.Fatal(err)
		}
	}
	if len(got.Refs) != mostRefs {
		t.Errorf("%d references are kept", len(got.Refs))
	}
	if _, err := s.load("../x"); err == nil {
		t.Error("a name that is no digest is taken")
	}
	half := filepath.Join(s.dir, "new-1")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.tidy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half an image is left: %v", err)
	}
	if all, err := s.list(); err != nil || !slices.Equal(all, []string{hex}) {
		t.Errorf("images %v, %v", all, err)
	}
	if err := s.remove(hex); err != nil {
		t.Fatal(err)
	}
	if all, err := s.list(); err != nil || len(all) != 0 {
		t.Errorf("images %v, %v", all, err)
	}
}

// fakeSnapshots has one chain: "top" over "base", which shows an image.
type fakeSnapshots struct {
	snapshot.Snapshotter
	infos map[string]snapshots.Info
}

type fixed []mount.Mount

func (f fixed) Mount() ([]mount.Mount, func() error, error) { return f, nil, nil }
func (fixed) IdentityMapping() *user.IdentityMapping        { return nil }

func (f *fakeSnapshots) Name() string { return "overlayfs" }
func (f *fakeSnapshots) Stat(_ context.Context, key string) (snapshots.Info, error) {
	i, ok := f.infos[key]
	if !ok {
		return i, cerrdefs.ErrNotFound
	}
	return i, nil
}

func (f *fakeSnapshots) Prepare(_ context.Context, key, parent string, opts ...snapshots.Opt) error {
	i := snapshots.Info{Parent: parent}
	for _, o := range opts {
		if err := o(&i); err != nil {
			return err
		}
	}
	f.infos[key] = i
	return nil
}

func (f *fakeSnapshots) Commit(_ context.Context, name, key string, opts ...snapshots.Opt) error {
	i := f.infos[key]
	for _, o := range opts {
		if err := o(&i); err != nil {
			return err
		}
	}
	f.infos[name] = i
	return nil
}

func (f *fakeSnapshots) Mounts(_ context.Context, key string) (snapshot.Mountable, error) {
	if f.infos[key].Parent == "" {
		return fixed{{Type: "bind", Source: "/own/" + key, Options: []string{"rw", "rbind"}}}, nil
	}
	return fixed{{Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=/w", "upperdir=/u", "lowerdir=/own/middle:/own/base"}}}, nil
}

type fakeMounter map[string]string

func (f fakeMounter) mount(hex string) (string, error) { return "/trees/" + hex, nil }
func (f fakeMounter) likeRoot(dir, hex string) error   { f[dir] = hex; return nil }

func TestSnapshotter(t *testing.T) {
	ctx := context.Background()
	rooted := fakeMounter{}
	s := &snapshotter{&fakeSnapshots{infos: map[string]snapshots.Info{}}, rooted}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Prepare(withTree(ctx, "abc"), "base", ""))
	must(s.Commit(ctx, "committed", "base"))
	if rooted["/own/base"] != "abc" {
		t.Errorf("the directory takes after no image: %v", rooted)
	}
	must(s.Prepare(withTree(ctx, "abc"), "top", "committed"))
	must(s.Prepare(ctx, "other", ""))
	for key, want := range map[string][]mount.Mount{
		"committed": {{Type: "bind", Source: "/trees/abc", Options: []string{"rw", "rbind"}}},
		"top":       {{Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=/w", "upperdir=/u", "lowerdir=/own/middle:/trees/abc"}}},
		"other":     {{Type: "bind", Source: "/own/other", Options: []string{"rw", "rbind"}}},
	} {
		if key == "committed" { // its mounts name the directory of the active one
			s.Snapshotter.(*fakeSnapshots).infos["base"] = s.Snapshotter.(*fakeSnapshots).infos["committed"]
			key = "base"
		}
		m, err := s.Mounts(ctx, key)
		must(err)
		got, _, err := m.Mount()
		must(err)
		if len(got) != 1 || got[0].Source != want[0].Source || !slices.Equal(got[0].Options, want[0].Options) {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
}

// TestAccessor gives the layers of images that cannot be built on.
func TestAccessor(t *testing.T) {
	ctx := context.Background()
	a := &accessor{b: &Bases{store: newStore(t)}}
	_, boot := bootLayer(t)
	blob := ocispecs.Descriptor{MediaType: "application/vnd.oci.image.layer.nydus.blob.v1", Digest: digest.FromString("blob"), Size: 4}
	first, err := a.GetByBlob(ctx, blob, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.GetByBlob(ctx, blob, first)
	if err != nil || len(second.(*blobRef).blobs) != 2 || len(first.(*blobRef).blobs) != 1 {
		t.Errorf("two data blobs: %+v, %v", second, err)
	}
	foreign := blob
	foreign.Annotations = map[string]string{"containerd.io/snapshot/nydus-ref": blob.Digest.String()}
	plain := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.FromString("plain")}
	for _, c := range []struct {
		d     ocispecs.Descriptor
		below cache.ImmutableRef
		want  string
	}{
		{boot, nil, "come from a registry only"},
		{plain, first, "over data blobs without a bootstrap"},
		{blob, fakeRef{}, "over ordinary layers"},
		{boot, fakeRef{}, "over ordinary layers"},
		{foreign, nil, "layers of an ordinary image"},
	} {
		if _, err := a.GetByBlob(ctx, c.d, c.below); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s over %T: %v, want an error with %q", c.d.MediaType, c.below, err, c.want)
		}
	}
}

type fakeRef struct{ cache.ImmutableRef }

func TestHiding(t *testing.T) {
	ctx := context.Background()
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &hiding{Store: cs}
	blob := ocispecs.Descriptor{MediaType: "application/vnd.oci.image.layer.nydus.blob.v1", Digest: digest.FromString("blob"), Size: 4}
	if _, err := h.Info(ctx, blob.Digest); !cerrdefs.IsNotFound(err) {
		t.Errorf("before it is asked for: %v", err)
	}
	if _, err := h.Writer(ctx, content.WithRef("x"), content.WithDescriptor(blob)); !cerrdefs.IsAlreadyExists(err) {
		t.Errorf("a data blob is taken: %v", err)
	}
	info, err := h.Info(ctx, blob.Digest)
	if err != nil || info.Size != 4 {
		t.Errorf("a data blob seems to be %+v, %v", info, err)
	}
	if _, err := h.Update(ctx, info); err != nil {
		t.Error(err)
	}
	w, err := h.Writer(ctx, content.WithRef("y"), content.WithDescriptor(ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Size: 1}))
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}

func TestCarriesBootstrap(t *testing.T) {
	raw, _ := bootLayer(t)
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if !carriesBootstrap(z) {
		t.Error("a bootstrap layer is not known")
	}
	for name, content := range map[string]string{"image/image.boot": "no bootstrap", "etc/passwd": "root"} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
		w.Close()
		if carriesBootstrap(&out) {
			t.Errorf("%s is taken for a bootstrap layer", name)
		}
	}
}

// basic wants a password, which it says once it is asked.
type basic struct{ asked int }

func (b *basic) Authorize(_ context.Context, req *http.Request) error {
	if b.asked > 0 {
		req.SetBasicAuth("user", "secret")
	}
	return nil
}

func (b *basic) AddResponses(context.Context, []*http.Response) error { b.asked++; return nil }

// TestGateway reads ranges through a mirror that lacks the blob, a registry
// that wants a password, and a redirect that must not see it.
func TestGateway(t *testing.T) {
	data := []byte("0123456789")
	d := digest.FromBytes(data)
	store := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("the store is told the password")
		}
		if r := req.Header.Get("Range"); r != "bytes=2-4" {
			t.Errorf("range %q", r)
		}
		rw.Header().Set("Content-Range", "bytes 2-4/10")
		rw.WriteHeader(http.StatusPartialContent)
		rw.Write(data[2:5])
	}))
	defer store.Close()
	registry := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if _, secret, _ := req.BasicAuth(); secret != "secret" {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		if req.URL.Path != "/v2/a/b/blobs/"+d.String() {
			t.Errorf("path %s", req.URL.Path)
		}
		http.Redirect(rw, req, strings.Replace(store.URL, "127.0.0.1", "localhost", 1)+"/x", http.StatusTemporaryRedirect)
	}))
	defer registry.Close()
	mirror := httptest.NewServer(http.NotFoundHandler())
	defer mirror.Close()
	host := func(s *httptest.Server, a docker.Authorizer) docker.RegistryHost {
		return docker.RegistryHost{Client: s.Client(), Host: strings.TrimPrefix(s.URL, "http://"), Scheme: "http", Path: "/v2", Capabilities: docker.HostCapabilityPull, Authorizer: a}
	}
	for _, h := range []docker.RegistryHost{host(mirror, nil), host(registry, &basic{})} {
		req := httptest.NewRequest(http.MethodGet, "https://name/v2/a/b/blobs/"+d.String(), nil)
		req.Header.Set("Range", "bytes=2-4")
		resp, err := askHost(context.Background(), h, req, "a/b", d.String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if h.Authorizer == nil {
			if resp.StatusCode != http.StatusNotFound {
				t.Errorf("the mirror answers %s", resp.Status)
			}
			continue
		}
		if err != nil || resp.StatusCode != http.StatusPartialContent || string(got) != "234" {
			t.Errorf("%s %q, %v", resp.Status, got, err)
		}
	}
	// All of it, with hosts from BuildKit's resolver; what the daemon has
	// itself comes from there.
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{sessions: &sessions{}, content: cs, hosts: func(string) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{host(mirror, nil)}, nil
	}}
	front := httptest.NewServer(g)
	defer front.Close()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(front.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(raw)
	}
	if code, _ := get("/v2/a/b/blobs/" + d.String()); code != http.StatusNotFound {
		t.Errorf("a blob that nobody has: %d", code)
	}
	if err := content.WriteBlob(context.Background(), cs, "x", bytes.NewReader(data), ocispecs.Descriptor{Digest: d, Size: 10}); err != nil {
		t.Fatal(err)
	}
	if code, got := get("/v2/a/b/blobs/" + d.String()); code != http.StatusOK || got != string(data) {
		t.Errorf("a blob of the daemon: %d %q", code, got)
	}
	if code, _ := get("/v2/a/b/manifests/latest"); code != http.StatusForbidden {
		t.Errorf("a manifest: %d", code)
	}
}

func TestSessions(t *testing.T) {
	s := &sessions{}
	if ids := session.AllSessionIDs(s.group("host/repo")); len(ids) != 0 {
		t.Errorf("sessions %v", ids)
	}
	for i := range 2 * mostSessions {
		s.note("host/repo", session.NewGroup(string(rune('a'+i))))
	}
	s.note("host/repo", session.NewGroup("l", ""))
	s.note("host/other", nil)
	if ids := session.AllSessionIDs(s.group("host/repo")); len(ids) != mostSessions || ids[0] != "l" || ids[1] != "p" {
		t.Errorf("sessions %v", ids)
	}
}

func TestSocketsInLongDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one finds the first one's file
		l, err := listen(dir, "x.sock")
		if err != nil {
			t.Fatal(err)
		}
		c, err := dialer(dir, "x.sock")(context.Background(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
	}
	if fi, err := os.Stat(filepath.Join(dir, "x.sock")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi, err)
	}
}
