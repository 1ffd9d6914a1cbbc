// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"lighter/convert"
	"lighter/format/formattest"
)

// staged has what layers are made of: stages, whiteouts, links of both kinds,
// capabilities and set-id bits. 188 is setxattr on amd64.
const staged = `FROM BASE AS tools
RUN mkdir /made && echo one >/made/a && ln /made/a /made/b && ln -s a /made/c && chmod 6755 /made/a && rm -r /usr/share/doc && mkdir /usr/share/doc && \
  touch /made/capable && perl -e '($file, $name, $cap) = ("/made/capable", "security.capability", pack("V5", 0x02000001, 1024, 0, 0, 0)); syscall(188, $file, $name, $cap, 20, 0) == 0 or die $!'
FROM BASE
COPY --from=tools /made /copied
COPY --link from-context /linked/
RUN rm /linked/small && echo two >>/linked/large && mv /etc/hostname /etc/hostname.old || true
ENV WHO=lighter
CMD ["cat", "/linked/large"]
`

// small has no base image but a root file system as an archive, with a shell.
const small = `FROM scratch
ADD rootfs.tar /
COPY from-context /opt/
RUN rm -r /old && mkdir /old && ln /opt/large /opt/other && chmod 4755 /opt/small && mkdir -p /a/b && setcap cap_net_raw+ep /opt/large && ln -s /opt /a/link
COPY --link from-context/small /linked/
CMD ["/bin/sh"]
`

// contextDir is a build context for both.
func contextDir(t testing.TB, e *Env, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(name, content string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("Dockerfile", strings.ReplaceAll(dockerfile, "BASE", e.Registry.Ref(Debian)))
	put("from-context/small", "small\n")
	put("from-context/large", strings.Repeat("a large file\n", 300_000))
	put("rootfs/etc/passwd", "root:x:0:0::/:/bin/sh\n")
	put("rootfs/old/file", "to be removed\n")
	// The machine's own shell and tools, and what they are linked with.
	runCommand(t, time.Minute, exec.Command("sh", "-ec", `PATH=$PATH:/sbin:/usr/sbin; cd "$0"
for tool in sh rm ln chmod mkdir setcap; do
  file=$(command -v $tool)
  install -D "$(readlink -f $file)" bin/$tool
  ldd $file | grep -o '/[^ ]*' | while read -r lib; do install -D "$(readlink -f $lib)" .$lib; done
done
tar -cf ../rootfs.tar .`, filepath.Join(dir, "rootfs")))
	return dir
}

func nydusOutput(ref string) string {
	return "type=image,name=" + ref + ",push=true,compression=nydus,oci-mediatypes=true"
}

// mustBeTwoEntries checks the index: the small manifest first, each entry with
// its platform, both children tagged.
func mustBeTwoEntries(t *testing.T, ref string) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Index(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 2 {
		t.Fatalf("the index has %d entries", len(m.Manifests))
	}
	layers := func(i int) int {
		im, err := idx.Image(m.Manifests[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		l, err := im.Layers()
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	if a, b := layers(0), layers(1); a != 1 || b < 2 {
		t.Errorf("the entries have %d and %d layers", a, b)
	}
	if p := m.Manifests[0].Platform; p == nil || p.OS != "linux" || len(p.OSFeatures) != 0 {
		t.Errorf("the first entry is for %v", p)
	}
	if p := m.Manifests[1].Platform; p == nil || !slices.Equal(p.OSFeatures, []string{"nydus.remoteimage.v1"}) {
		t.Errorf("the second entry is for %v", p)
	}
	for i, suffix := range []string{"-boot", "-data"} {
		d, err := remote.Head(r.Context().Tag("latest" + suffix))
		if err != nil || d.Digest != m.Manifests[i].Digest {
			t.Errorf("tag latest%s: %v, %v", suffix, d, err)
		}
	}
}

func layerTypes(t *testing.T, ref string) (out []string) {
	t.Helper()
	for _, l := range imageOf(t, ref).Layers {
		out = append(out, string(l.MediaType))
	}
	return out
}

// unpacked lists an ordinary image as umoci unpacks it.
func unpacked(t *testing.T, ref string) formattest.Listing {
	t.Helper()
	dir := t.TempDir()
	layout := filepath.Join(dir, "layout") + ":x"
	runCommand(t, 5*time.Minute, exec.Command("skopeo", "copy", "--src-tls-verify=false", "docker://"+ref, "oci:"+layout))
	runCommand(t, 5*time.Minute, exec.Command("umoci", "unpack", "--image", layout, filepath.Join(dir, "bundle")))
	l, err := formattest.ListDir(filepath.Join(dir, "bundle", "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listed lists an accelerated image through the plain reader, every chunk verified.
func listed(t *testing.T, ref string) (l formattest.Listing) {
	t.Helper()
	withImage(t, ref, func(o *convert.Opened) (err error) {
		l, err = formattest.ListBootstrap(o.Bootstrap, o.OpenBlob)
		return err
	})
	return l
}

// withImage opens an accelerated image for do.
func withImage(t *testing.T, ref string, do func(*convert.Opened) error) {
	t.Helper()
	ctx := context.Background()
	r, err := convert.ParseReference(ref, false)
	if err != nil {
		t.Fatal(err)
	}
	src, err := convert.OpenSource(ctx, r, convert.IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	im, err := convert.OpenImage(ctx, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := im.Open(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if err := do(o); err != nil {
		t.Fatal(err)
	}
}

// mustHoldNoGzip looks into the daemon's store for ordinary layers; the
// bootstrap layer of ref is the one gzip blob that may be there.
func (b *BuildKit) mustHoldNoGzip(t *testing.T, ref string) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(b.Root, "runc-*", "content", "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("content store: %d blobs, %v", len(blobs), err)
	}
	r, err := name.ParseReference(ref + "-boot")
	if err != nil {
		t.Fatal(err)
	}
	im, err := remote.Image(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		raw, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(raw), "\x1f\x8b") && filepath.Base(blob) != m.Layers[0].Digest.Hex {
			t.Errorf("a layer of %d bytes was made on the way", len(raw))
		}
	}
}

func layersConverted(out string) int {
	seen := map[string]bool{}
	for line := range strings.Lines(out) {
		if _, rest, ok := strings.Cut(line, "converting layer "); ok {
			seen[strings.Fields(rest)[0]] = true
		}
	}
	return len(seen)
}

// usage is what the daemon says that its cache takes, in bytes.
func (b *BuildKit) usage(t *testing.T) (sum int64) {
	t.Helper()
	var all []struct{ Size int64 }
	if err := json.Unmarshal([]byte(b.Ctl(t, "du", "--format", "{{json .}}")), &all); err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		sum += u.Size
	}
	return sum
}

func digestOf(t *testing.T, ref string) v1.Hash {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(r)
	if err != nil {
		t.Fatal(err)
	}
	return d.Digest
}
