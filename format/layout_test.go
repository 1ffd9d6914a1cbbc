// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"

	. "lighter/format/formattest"
)

// TestLayout builds what is hard to place: directories, links and attributes
// around the size of a block and far above it.
func TestLayout(t *testing.T) {
	var files []File
	add := func(f File) { files = append(files, f) }
	value := func(n int) map[string]string { return map[string]string{"security.x": strings.Repeat("v", n)} }
	// Names of 4 bytes and their entries of 16 fill a block exactly at 255 of
	// them: "." and ".." take 27 bytes.
	for _, n := range []int{0, 1, 240, 252, 253, 254, 255, 256, 257, 511, 512, 3000} {
		add(Dir(fmt.Sprintf("n%d", n)))
		for i := range n {
			add(File{Name: fmt.Sprintf("n%d/%04d", n, i)})
		}
	}
	// The entries that fill the last block exactly.
	for pad := range 20 {
		d := fmt.Sprintf("pad%d", pad)
		for i := range 250 {
			add(File{Name: fmt.Sprintf("%s/%04d", d, i)})
		}
		add(File{Name: d + "/" + strings.Repeat("z", 30+pad)})
	}
	for _, n := range []int{1, 100, 3900, 4000, 4031, 4032, 4033, 4095} {
		add(Symlink(fmt.Sprintf("link%d", n), strings.Repeat("t", n)))
		add(File{Name: fmt.Sprintf("xlink%d", n), Type: tar.TypeSymlink, Link: strings.Repeat("t", n), Xattrs: value(20)})
	}
	for _, n := range []int{0, 1, 3, 4, 4000, 4096, 5000, 20000, 65535} {
		add(File{Name: fmt.Sprintf("x%d", n), Content: "content", Xattrs: value(n)})
		add(File{Name: fmt.Sprintf("dev%d", n), Type: tar.TypeBlock, Dev: [2]int64{1, 2}, Xattrs: value(n)})
		add(File{Name: fmt.Sprintf("xdir%d", n), Type: tar.TypeDir, Xattrs: value(n)})
		for i := range n / 100 {
			add(File{Name: fmt.Sprintf("xdir%d/file%d", n, i)})
		}
	}
	add(File{Name: "large", Content: strings.Repeat("0123456789abcdef", 5<<16+1)})
	add(File{Name: "zeros", Content: strings.Repeat("\x00", 3<<20)})
	im := build(t, Tar(t, files...))
	want := im.List(t)
	if len(want) < len(files) {
		t.Fatalf("%d files in the image, %d in the tar", len(want), len(files))
	}
	im.CheckWithPeers(t, want)
}
