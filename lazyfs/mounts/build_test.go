// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lighter/format"
	"lighter/lazyfs/mounts"
)

// entry is one entry of an image under construction: a tar header without what
// follows from the rest.
type entry struct {
	tar.Header
	data []byte
}

func file(name string, mode int64, data []byte) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, data}
}

func directory(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func link(name, target string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// noise returns n bytes that do not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return b
}

// build makes an image of one layer and returns how to mount it.
func build(t *testing.T, entries ...entry) mounts.Spec {
	t.Helper()
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for _, e := range entries {
		e.Size = int64(len(e.data))
		e.ModTime = time.Unix(1_600_000_000, 0)
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var blob bytes.Buffer
	layer, err := format.BuildLayer(&blob, &archive, format.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := format.OpenBytes(layer.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	id := hex.EncodeToString(layer.Digest[:])
	var boot bytes.Buffer
	if _, err := format.Merge(&boot, []format.MergeLayer{{ID: id, Bootstrap: b}}, format.MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := mounts.Spec{Bootstrap: filepath.Join(dir, "bootstrap"), BlobDirs: []string{filepath.Join(dir, "blobs")}}
	if err := os.Mkdir(s.BlobDirs[0], 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.BlobDirs[0], id), blob.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Bootstrap, boot.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// show builds an image and mounts it with a server of its own.
func show(t *testing.T, entries ...entry) string {
	t.Helper()
	return startServer(t, t.TempDir()).mount(t, "m", build(t, entries...))
}
