// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"lighter/format"
	"lighter/format/formattest"
)

// peerTar is a layer that nydus-image 2.2 understands: it wants every parent
// listed, and forgets sub-seconds.
func peerTar(t *testing.T) []byte {
	t.Helper()
	big := bytes.Repeat([]byte("0123456789abcde\n"), 5<<16)
	for k := 0; k < len(big); k += 4096 {
		copy(big[k:], fmt.Sprint(k*k))
	}
	files := []formattest.File{
		formattest.Dir("./"), formattest.Dir("bin"), formattest.Dir("bin/deep"), formattest.Dir("empty"),
		{Name: "bin/big", Content: string(big)},
		{Name: "bin/same", Content: string(big[:3<<20])},
		{Name: "bin/su", Content: "x", Mode: 0o4755, UID: 7},
		{Name: "bin/deep/su2", Type: tar.TypeLink, Link: "bin/su", Mode: 0o4755, UID: 7},
		{Name: "bin/link", Type: tar.TypeSymlink, Link: "deep/su2", Mode: 0o777},
		{Name: "none", Mtime: time.Unix(5, 0)},
		{Name: "odd", Content: strings.Repeat("o", 4097), Xattrs: map[string]string{"user.a": "1", "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)}},
	}
	for k := range 100 {
		files = append(files, formattest.File{Name: fmt.Sprintf("empty/f%d", k), Content: strings.Repeat(string(rune('a'+k%26)), k*k)})
	}
	return formattest.Tar(t, files...)
}

// peerImage is what a builder wrote: blobs are named by id.
type peerImage struct {
	boot []byte
	dir  string
}

func (p peerImage) open(bl format.Blob) (io.ReaderAt, int64, error) {
	if bl.ID == strings.Repeat("0", 64) {
		bl.ID = format.PlaceholderID // the layer of a reference does not know its own digest
	}
	f, err := os.Open(filepath.Join(p.dir, bl.ID))
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	return f, fi.Size(), err
}

// TestImagesOfNydusImage reads what the reference builder writes with all its
// options.
func TestImagesOfNydusImage(t *testing.T) {
	tool := formattest.Peer(t, "nydus-image")
	if tool == "" {
		return
	}
	layer := peerTar(t)
	dir := t.TempDir()
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(layer)
	z.Close()
	for name, p := range map[string][]byte{"layer.tar": layer, "layer.tar.gz": gz.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	im, err := formattest.Build([]io.Reader{bytes.NewReader(layer)}, format.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := im.List(t)
	for _, c := range []string{
		"-v 5 --compressor none", "-v 5 --compressor lz4_block", "-v 5 --compressor zstd", "-v 5 --digester sha256",
		"-v 5 --chunk-size 0x1000", "-v 5 --chunk-size 0x1000000", "-v 5 --aligned-chunk", "-v 5 --prefetch-policy fs", "-v 5 --blob-inline-meta",
		"-v 6 --compressor none", "-v 6 --compressor lz4_block", "-v 6 --compressor zstd", "-v 6 --digester sha256",
		"-v 6 --chunk-size 0x1000", "-v 6 --chunk-size 0x1000000", "-v 6 --prefetch-policy fs", "-v 6 --blob-inline-meta",
		"-v 6 --features blob-toc", "-v 6 --blob-inline-meta --features blob-toc", "-t targz-ref --blob-inline-meta --features blob-toc", "-t targz-rafs",
	} {
		t.Run(c, func(t *testing.T) {
			got := createWithPeer(t, tool, dir, c)
			b, err := format.OpenBytes(got.boot)
			if err != nil {
				t.Fatal(err)
			}
			l, err := formattest.ListBootstrap(b, got.open)
			if err != nil {
				t.Fatal(err)
			}
			if d := formattest.Diff(want, l); d != "" {
				t.Error(d)
			}
			r, err := format.Check(b, got.open, format.CheckOptions{})
			if err == nil {
				err = r.Err()
			}
			if err != nil {
				t.Errorf("check: %v", err)
			}
			if n, err := b.Prefetch(); err != nil || strings.Contains(c, "prefetch") != (len(n) == 2) {
				t.Errorf("prefetch: %v, %v", n, err)
			}
		})
	}
}

// createWithPeer runs "nydus-image create" with options on the layer in dir.
func createWithPeer(t *testing.T, tool, dir, options string) peerImage {
	t.Helper()
	out := t.TempDir()
	args := append([]string{"create", "--log-level", "warn", "--whiteout-spec", "none"}, strings.Fields(options)...)
	source := "layer.tar"
	if strings.Contains(options, "targz") {
		source = "layer.tar.gz"
	} else {
		args = append(args, "--type", "tar-rafs")
	}
	inline := strings.Contains(options, "--blob-inline-meta")
	if inline {
		args = append(args, "--blob", filepath.Join(out, "blob"))
	} else {
		args = append(args, "--blob-dir", out, "--bootstrap", filepath.Join(out, "boot"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, append(args, filepath.Join(dir, source))...)
	cmd.Stdin = strings.NewReader("/bin\n/odd\n")
	if log, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, log)
	}
	p := peerImage{dir: out}
	var err error
	if !inline {
		if p.boot, err = os.ReadFile(filepath.Join(out, "boot")); err != nil {
			t.Fatal(err)
		}
	} else {
		p.boot = inlinedBootstrap(t, filepath.Join(out, "blob"))
	}
	if source != "layer.tar" && strings.Contains(options, "ref") {
		raw, err := os.ReadFile(filepath.Join(dir, source))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		if err := os.WriteFile(filepath.Join(out, hex.EncodeToString(sum[:])), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// inlinedBootstrap takes the bootstrap out of a layer blob and gives the blob
// the name that the bootstrap has for it.
func inlinedBootstrap(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := format.ReadLayerBlob(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	boot, err := l.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, filepath.Join(filepath.Dir(path), format.PlaceholderID)); err != nil {
		t.Fatal(err)
	}
	return boot
}
