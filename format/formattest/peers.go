// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lighter/format"
)

// peerDir is searched for other implementations before PATH: "make peers"
// builds them there.
func peerDir() string {
	if d := os.Getenv("LIGHTER_TEST_CACHE"); d != "" {
		return filepath.Join(d, "peers", "bin")
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".cache", "lighter-test", "peers", "bin")
}

// optional lists the peers that no package of Debian has.
var optional = map[string]bool{"nydus-image": true, "nydusd": true}

// FindPeer returns the path of a program of another implementation, "" when
// it is not installed.
func FindPeer(name string) string {
	if p := filepath.Join(peerDir(), name); exec.Command(p, "--version").Run() == nil {
		return p
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return p
}

var announced sync.Map

// Peer is FindPeer for a test: it states the version. Without the program it
// says so aloud and returns "", except under CI: there it fails, unless the
// program must be built by "make peers".
func Peer(t *testing.T, name string) string {
	t.Helper()
	path := FindPeer(name)
	if path == "" {
		if os.Getenv("CI") != "" && !optional[name] {
			t.Fatalf("peer %s is not installed", name)
		}
		if _, known := announced.LoadOrStore(name, ""); !known {
			fmt.Printf("NOT CHECKED: peer %s is not installed (%s, PATH)\n", name, peerDir())
		}
		return ""
	}
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil {
		out, _ = exec.Command(path, "-V").CombinedOutput()
	}
	version := strings.Join(strings.Fields(string(out)), " ") + crateVersion(path)
	if _, known := announced.LoadOrStore(name, version); !known {
		fmt.Printf("peer %s: %s\n", path, version)
	}
	t.Logf("peer %s: %s", path, version)
	return path
}

// crateVersion tells the version of a program that "cargo install" built, whose
// own answer does not.
func crateVersion(path string) string {
	list, err := os.ReadFile(filepath.Join(filepath.Dir(path), "../.crates.toml"))
	if err != nil {
		return ""
	}
	crate := ""
	for line := range strings.Lines(string(list)) {
		if name, _, ok := strings.Cut(line, " ("); ok {
			crate = strings.Trim(name, `"`)
		}
		if strings.Contains(line, strconv.Quote(filepath.Base(path))) {
			return ", crate " + crate
		}
	}
	return ""
}

// run runs a peer with a deadline and returns its output.
func run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(append([]string{name}, args...), " "), err, out)
	}
	return string(out), err
}

// CheckWithPeers lets every other implementation that knows the image's
// version and features read it, and compares what those that mount it show.
func (im *Image) CheckWithPeers(t *testing.T, want Listing) {
	t.Helper()
	if im.Bootstrap.Info().Version == 6 {
		im.CheckWithFsck(t)
		if d := Diff(want, im.ListWithKernel(t)); d != "" {
			t.Errorf("kernel: %s", d)
		}
	}
	if slices.ContainsFunc(im.Bootstrap.Blobs(), format.Blob.IsBatch) {
		return // the Nydus programs that can be built here are older than batches
	}
	im.CheckWithNydusImage(t)
	if l, ok := im.ListWithNydusd(t); ok {
		times := byPath(want)
		for i := range l {
			if times[l[i].Path].Mtime == 0 {
				l[i].Mtime = 0 // nydusd shows the current time
			}
			if l[i].Path == "." {
				l[i].Mode = times["."].Mode // nydusd shows 0755
			}
		}
		if d := Diff(want, l); d != "" {
			t.Errorf("nydusd: %s", d)
		}
	}
}

// CheckWithNydusImage runs "nydus-image check" on the image and on the
// bootstrap of each of its layers.
func (im *Image) CheckWithNydusImage(t *testing.T) {
	t.Helper()
	tool := Peer(t, "nydus-image")
	if tool == "" {
		return
	}
	dir := t.TempDir()
	boots := map[string][]byte{"image": im.Bytes}
	for _, l := range im.Layers {
		boots[hex.EncodeToString(l.Digest[:])] = l.Bootstrap
	}
	for name, b := range boots {
		path := writeFile(t, dir, name, b)
		if out, err := run(t, tool, "check", "--bootstrap", path); err != nil || !strings.Contains(out, "metadata is valid") {
			t.Errorf("nydus-image check: %v\n%s", err, out)
		}
	}
}

// CheckWithFsck runs fsck.erofs on the image over its uncompressed blobs.
func (im *Image) CheckWithFsck(t *testing.T) {
	t.Helper()
	tool := Peer(t, "fsck.erofs")
	if tool == "" {
		return
	}
	boot, devices := im.Devices(t)
	args := []string{"--extract"}
	for _, d := range devices {
		args = append(args, "--device="+d)
	}
	if out, err := run(t, tool, append(args, boot)...); err != nil || strings.Contains(out, "<E>") {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

// Devices writes the bootstrap and, for each blob, the uncompressed address
// space as a file.
func (im *Image) Devices(t *testing.T) (boot string, devices []string) {
	t.Helper()
	dir := t.TempDir()
	boot = writeFile(t, dir, "image.boot", im.Bytes)
	var files []*os.File
	for _, bl := range im.Bootstrap.Blobs() {
		f, err := os.Create(filepath.Join(dir, bl.ID))
		if err == nil {
			err = f.Truncate(int64(bl.UncompressedSize))
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, devices = append(files, f), append(devices, f.Name())
	}
	l := &lister{b: im.Bootstrap, open: im.Open, tables: map[uint32]*format.ChunkTable{}}
	l.onChunk = func(c format.Chunk, data []byte) error {
		_, err := files[c.BlobIndex].WriteAt(data, c.UncompressedOff)
		return err
	}
	root, err := im.Bootstrap.Inode(im.Bootstrap.Info().RootNid)
	if err == nil {
		err = l.list("", root)
	}
	if err != nil {
		t.Fatal(err)
	}
	return boot, devices
}

func writeFile(t *testing.T, dir, name string, p []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
