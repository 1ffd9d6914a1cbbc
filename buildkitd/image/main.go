// SPDX-License-Identifier: Apache-2.0

// Command image packs our buildkitd into a container image, as `docker load`
// and buildx's docker-container driver take it. The image has no base: it holds
// buildkitd and buildctl, this machine's runc with the libraries that it is
// linked with, and the certificates of authorities. No network is used. There is
// no git in it: git repositories cannot be build contexts.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	tag := flag.String("tag", "lighter/buildkitd:latest", "name of the image")
	bin := flag.String("bin", "build", "directory of buildkitd and buildctl")
	out := flag.String("o", "build/buildkitd-image.tar", "archive to write")
	flag.Parse()
	if err := pack(*bin, *tag, *out); err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
}

// authorities is where the certificates are on Debian and in the image.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

func pack(bin, tag, out string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	files := map[string]string{ // in the image → here
		"usr/bin/buildkitd": filepath.Join(bin, "buildkitd"),
		"usr/bin/buildctl":  filepath.Join(bin, "buildctl"),
		authorities[1:]:     authorities,
	}
	if err := addRunc(files); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return layerTar(files) })
	if err != nil {
		return err
	}
	im, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := im.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = runtime.GOOS, runtime.GOARCH
	config.Config = v1.Config{
		Entrypoint: []string{"buildkitd"},
		Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Volumes:    map[string]struct{}{"/var/lib/buildkit": {}},
	}
	if im, err = mutate.ConfigFile(im, config); err != nil {
		return err
	}
	return tarball.WriteToFile(out, ref, im)
}

// library is a path in what ldd prints.
var library = regexp.MustCompile(`/[^ ]+`)

// addRunc adds this machine's runc, under the name that BuildKit looks for
// first, and its libraries, under the names that they are looked for.
func addRunc(files map[string]string) error {
	var runc string
	var err error
	for _, name := range []string{"buildkit-runc", "runc"} {
		if runc, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("%w (Debian's package is runc)", err)
	}
	files["usr/bin/buildkit-runc"] = runc
	libraries, err := exec.Command("ldd", runc).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && strings.Contains(string(exit.Stderr), "not a dynamic executable") {
			return nil
		}
		return fmt.Errorf("ldd %s: %w", runc, err)
	}
	for _, l := range library.FindAllString(string(libraries), -1) {
		files[strings.TrimPrefix(path.Clean(l), "/")] = l
	}
	return nil
}

// layerTar gives the tar of files and their directories, owned by root, without times.
func layerTar(files map[string]string) (io.ReadCloser, error) {
	modes := map[string]int64{"tmp": 0o1777, "var/lib/buildkit": 0o700}
	var names []string
	add := func(n string) {
		for ; n != "." && !slices.Contains(names, n); n = path.Dir(n) {
			names = append(names, n)
		}
	}
	for n := range files {
		add(n)
	}
	for n := range modes {
		add(n)
	}
	slices.Sort(names)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, n := range names {
		h := &tar.Header{Name: n + "/", Typeflag: tar.TypeDir, Mode: 0o755}
		if m, ok := modes[n]; ok {
			h.Mode = m
		}
		var content []byte
		if from := files[n]; from != "" {
			raw, err := os.ReadFile(from)
			if err != nil {
				return nil, err
			}
			content = raw
			h = &tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(raw))}
			if n == authorities[1:] {
				h.Mode = 0o644
			}
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(&buf), w.Close()
}
