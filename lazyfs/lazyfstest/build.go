// SPDX-License-Identifier: Apache-2.0

package lazyfstest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math/rand"
	"slices"
	"testing"

	"lighter/format"
)

// Random returns n bytes that do not compress, the same for the same seed.
func Random(seed int64, n int) []byte {
	p := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(p)
	return p
}

// Build makes an image of layers, the lowest first, each with regular files by
// path without leading "/".
func Build(tb testing.TB, o format.BuildOptions, layers ...map[string][]byte) *Image {
	tb.Helper()
	var merge []format.MergeLayer
	blobs := NewBlobs(nil)
	all := map[string]File{}
	for _, files := range layers {
		var in, blob bytes.Buffer
		w := tar.NewWriter(&in)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			p := files[name]
			sum := sha256.Sum256(p)
			all[name] = File{int64(len(p)), hex.EncodeToString(sum[:])}
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(p)), Typeflag: tar.TypeReg}); err != nil {
				tb.Fatal(err)
			}
			if _, err := w.Write(p); err != nil {
				tb.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
		l, err := format.BuildLayer(&blob, &in, o)
		if err != nil {
			tb.Fatal(err)
		}
		b, err := format.OpenBytes(l.Bootstrap)
		if err != nil {
			tb.Fatal(err)
		}
		id := hex.EncodeToString(l.Digest[:])
		blobs.Put(id, blob.Bytes())
		merge = append(merge, format.MergeLayer{ID: id, Bootstrap: b})
	}
	var boot bytes.Buffer
	if _, err := format.Merge(&boot, merge, format.MergeOptions{}); err != nil {
		tb.Fatal(err)
	}
	im := newImage(tb, boot.Bytes())
	im.Blobs, im.Files = blobs, all
	return im
}
