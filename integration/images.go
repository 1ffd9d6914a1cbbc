// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The test images: real ones, made by Docker itself from Debian's packages.
// Their layers are what docker push made of them.
const (
	Tiny   = "tiny"   // one small file, for the cost of a pull as such
	Debian = "debian" // debootstrap's minbase, one layer
	Python = "python" // Debian, Python and numpy; three layers
	Big    = "big"    // Python and enough packages to exceed 1 GB
)

// imagesVersion is part of the cache's name: raise it when a recipe below changes.
const imagesVersion = "1"

const suite, mirror = "bookworm", "http://deb.debian.org/debian"

// recipes are built in this order; each may start from one before it.
var recipes = []struct{ name, dockerfile string }{
	{Python, `FROM ` + Debian + `
RUN apt-get update -q && apt-get install -qy --no-install-recommends python3 && apt-get clean
RUN apt-get install -qy --no-install-recommends python3-numpy && apt-get clean && rm -rf /var/lib/apt/lists
CMD ["python3"]
`},
	{Big, `FROM ` + Python + `
RUN apt-get update -q && apt-get install -qy --no-install-recommends g++ gfortran golang-1.19-go && apt-get clean
RUN apt-get install -qy --no-install-recommends clang-14 python3-scipy && apt-get clean && rm -rf /var/lib/apt/lists
`},
}

// Push copies test images into the registry, building them first if the
// machine's cache lacks them (some five minutes, and network to a Debian mirror).
func (e *Env) Push(t TB, names ...string) {
	t.Helper()
	store, err := e.imageStore(t)
	if err != nil {
		t.Fatalf("test images: %v", err)
	}
	for _, n := range names {
		img, err := imageByName(store, n)
		if err != nil {
			t.Fatalf("test images: %v", err)
		}
		ref, err := name.ParseReference(e.Registry.Ref(n))
		if err != nil {
			t.Fatalf("test images: %v", err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatalf("test images: push %s: %v", n, err)
		}
	}
}

func imageByName(p layout.Path, n string) (v1.Image, error) {
	idx, err := p.ImageIndex()
	if err != nil {
		return nil, err
	}
	m, err := idx.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if d.Annotations[refName] == n {
			return p.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("no image %s in %s", n, p)
}

const refName = "org.opencontainers.image.ref.name"

// imageStore returns the machine's cache of test images, an OCI layout. Two
// processes that find it missing do not build it twice.
func (e *Env) imageStore(t TB) (layout.Path, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "images-"+suite+"-"+imagesVersion)
	lock, err := os.Create(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err == nil {
		return layout.Path(dir), nil
	}
	start := time.Now()
	t.Logf("building the test images into %s", dir)
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return "", err
	}
	if err := e.buildImages(t, part); err != nil {
		return "", err
	}
	t.Logf("test images built in %v", time.Since(start).Round(time.Second))
	return layout.Path(dir), os.Rename(part, dir)
}

// buildImages makes all test images with a dockerd of its own and keeps them as that dockerd pushed them.
func (e *Env) buildImages(t TB, dir string) error {
	d := e.StartDaemon(t, DaemonOptions{Name: "i"})
	defer d.Stop(t)
	if _, _, err := tryCommand(time.Minute, importCommand(d, Tiny, tinyTar())); err != nil {
		return fmt.Errorf("import %s: %w", Tiny, err)
	}
	if err := e.importDebian(t, d); err != nil {
		return err
	}
	for _, r := range recipes {
		cmd := d.Command("build", "--network=host", "-q", "-t", r.name, "-")
		cmd.Stdin = strings.NewReader(r.dockerfile)
		if out, errOut, err := tryCommand(20*time.Minute, cmd); err != nil {
			return fmt.Errorf("build %s: %w\n%s%s", r.name, err, out, errOut)
		}
	}
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	for _, n := range []string{Tiny, Debian, Python, Big} {
		target := e.Registry.Ref(n)
		d.Docker(t, "tag", n, target)
		d.Docker(t, "push", "-q", target)
		ref, err := name.ParseReference(target)
		if err != nil {
			return err
		}
		img, err := remote.Image(ref)
		if err != nil {
			return err
		}
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: n})); err != nil {
			return fmt.Errorf("keep %s: %w", n, err)
		}
	}
	return nil
}

func importCommand(d *Daemon, n string, tarball []byte) *exec.Cmd {
	cmd := d.Command("import", "-", n)
	cmd.Stdin = bytes.NewReader(tarball)
	return cmd
}

func tinyTar() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := "one file\n"
	w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
	w.Write([]byte(text))
	w.Close()
	return b.Bytes()
}

// importDebian unpacks a minimal Debian with debootstrap and imports it as an image of one layer.
func (e *Env) importDebian(t TB, d *Daemon) error {
	root := e.Path(t, "debian", "rootfs")
	cmd := exec.Command("debootstrap", "--variant=minbase", suite, root, mirror)
	if out, errOut, err := tryCommand(15*time.Minute, cmd); err != nil {
		return fmt.Errorf("debootstrap: %w\n%s%s", err, out, errOut)
	}
	defer os.RemoveAll(root)
	if out, errOut, err := tryCommand(time.Minute, exec.Command("chroot", root, "apt-get", "clean")); err != nil {
		return fmt.Errorf("apt-get clean: %w\n%s%s", err, out, errOut)
	}
	tarball := exec.Command("tar", "-C", root, "--numeric-owner", "--xattrs", "-c", ".")
	pipe, err := tarball.StdoutPipe()
	if err != nil {
		return err
	}
	if err := tarball.Start(); err != nil {
		return err
	}
	imp := d.Command("import", "--change", `CMD ["bash"]`, "-", Debian)
	imp.Stdin = pipe
	if out, errOut, err := tryCommand(5*time.Minute, imp); err != nil {
		return fmt.Errorf("import %s: %w\n%s%s", Debian, err, out, errOut)
	}
	return tarball.Wait()
}

// skopeoCopy copies one image between loopback registries, without the others of its index.
func skopeoCopy(from, to string) *exec.Cmd {
	return exec.Command("skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+from, "docker://"+to)
}
