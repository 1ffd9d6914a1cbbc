// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"testing"

	"lighter/format"
	"lighter/format/formattest"
)

// goldenBootstrap returns the bootstrap that the reference converter made.
func goldenBootstrap(t *testing.T, tag string) []byte {
	t.Helper()
	layers := formattest.GoldenLayers(t, tag)
	r := tar.NewReader(layers[len(layers)-1])
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("image/image.boot: %v", err)
		}
		if h.Name == "image/image.boot" {
			p, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
}

// TestMergeBytes merges the golden image and compares the bytes with what the
// reference builder wrote. They may differ where the two mean to: ids and
// sizes of blobs, and sub-second times, which it does not keep.
func TestMergeBytes(t *testing.T) {
	none := format.None
	im, err := formattest.Build(formattest.GoldenLayers(t, "src"), format.BuildOptions{Compressor: &none})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var layers []format.MergeLayer
	for _, l := range im.Layers {
		b, err := format.OpenBytes(l.Bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, format.MergeLayer{ID: hex.EncodeToString(l.Digest[:]), Bootstrap: b})
	}
	if _, err := format.Merge(&out, layers, format.MergeOptions{Prefetch: []string{"/"}}); err != nil {
		t.Fatal(err)
	}
	got, want := out.Bytes(), goldenBootstrap(t, "v6-none")
	if len(got) != len(want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	allowed := newMask(t, got)
	for i := range got {
		if got[i] != want[i] && !allowed[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

// newMask marks the bytes that may differ.
func newMask(t *testing.T, boot []byte) map[int]bool {
	t.Helper()
	b, err := format.OpenBytes(boot)
	if err != nil {
		t.Fatal(err)
	}
	mask := map[int]bool{}
	mark := func(off, n int) {
		for i := range n {
			mask[off+i] = true
		}
	}
	table := int(binary.LittleEndian.Uint64(boot[1152+8:]))
	for i := range b.Blobs() {
		mark(1408+128*i, 64)    // tag
		mark(table+256*i, 64)   // id
		mark(table+256*i+88, 8) // compressed_size
	}
	meta := int(binary.LittleEndian.Uint32(boot[1024+40:])) * 4096
	var walk func(dir format.Inode) error
	walk = func(dir format.Inode) error {
		var failed error
		err := b.Dirents(dir, 0, func(_ int, d format.Dirent) bool {
			if d.Name == "." || d.Name == ".." {
				return true
			}
			var i format.Inode
			if i, failed = b.Child(dir, d); failed != nil {
				return false
			}
			if i.MtimeNsec != 0 {
				mark(meta+int(i.Nid)*32+40, 4)
			}
			if i.IsDir() {
				failed = walk(i)
			}
			return failed == nil
		})
		return errors.Join(failed, err)
	}
	root, err := b.Inode(b.Info().RootNid)
	if err == nil {
		err = walk(root)
	}
	if err != nil {
		t.Fatal(err)
	}
	return mask
}
