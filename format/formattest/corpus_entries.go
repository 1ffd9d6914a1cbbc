// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"fmt"
	"strings"
)

// entryCases have entries that meet others of their layer.
func entryCases() []Case {
	return []Case{
		stack("no entries", [][]File{{}}, ". d 755\n"),
		stack("root", [][]File{{{Name: "./", Type: tar.TypeDir, Mode: 0o1700}}}, ". d 1700\n").
			but("an engine leaves the root entry out, for the root that a container sees is that of its own layer; elsewhere the image shows what it says", Containerd, ContainerdOverlay, Docker),
		stack("implicit parents", [][]File{{{Name: "a/b/c", Content: "x"}}}, ". d 755\na d 755\na/b d 755\na/b/c f 644 1\n"),
		stack("last wins", [][]File{{{Name: "a", Content: "12"}, {Name: "a", Content: "1", Mode: 0o4755}}}, ". d 755\na f 4755 1\n"),
		stack("directory twice", [][]File{{Dir("a"), {Name: "a/b"}, {Name: "a/", Type: tar.TypeDir, Mode: 0o700}}}, ". d 755\na d 700\na/b f 644\n"),
		stack("file over directory", [][]File{{Dir("a"), {Name: "a/b"}, {Name: "a"}}}, ". d 755\na f 644\n"),
		stack("directory over file", [][]File{{{Name: "a"}, Dir("a"), {Name: "a/b"}}}, ". d 755\na d 755\na/b f 644\n"),
		stack("below a symlink", [][]File{{Dir("x"), Symlink("a", "/x"), {Name: "a/b"}}}, ". d 755\na l 777 2 -> /x\nx d 755\nx/b f 644\n"),
		stack("symlink over directory", [][]File{{Dir("x"), Dir("a"), {Name: "a/old"}, Symlink("a", "x"), {Name: "a/b"}}},
			". d 755\na l 777 1 -> x\nx d 755\nx/b f 644\n"),
		stack("symlink out of the root", [][]File{{Symlink("a", "../../.."), {Name: "a/b"}}}, ". d 755\na l 777 8 -> ../../..\nb f 644\n").
			but("Docker refuses to go through it", Docker),
		stack("each type over each", [][]File{{
			{Name: "a", Content: "x"}, Symlink("a", "t"), {Name: "a", Type: tar.TypeFifo}, {Name: "a", Type: tar.TypeChar, Dev: [2]int64{1, 3}}, Dir("a"),
			{Name: "a/in"}, {Name: "a", Content: "last"},
			Symlink("b", "t"), {Name: "b"}, Dir("b"), {Name: "b/in"}, Symlink("b", "t"), {Name: "b", Type: tar.TypeBlock, Dev: [2]int64{7, 0}},
			{Name: "c/in/deep"}, Symlink("c", "t"), Dir("c"), {Name: "c/new"}}}, ". d 755\na f 644 4\nb b 644 7:0\nc d 755\nc/new f 644\n"),
		stack("children before their directory", [][]File{{{Name: "a/b/c"}, {Name: "a/b", Type: tar.TypeDir, Mode: 0o750, UID: 7}, {Name: "a", Type: tar.TypeDir, Mode: 0o711, GID: 8}}},
			". d 755\na d 711\na/b d 750\na/b/c f 644\n"),
		stack("symlinks chained in a path", [][]File{{Dir("x/y"), Symlink("a", "b"), Symlink("b", "/x"), Symlink("x/z", "./y"), {Name: "a/z/f"}}},
			". d 755\na l 777 1 -> b\nb l 777 2 -> /x\nx d 755\nx/y d 755\nx/y/f f 644\nx/z l 777 3 -> ./y\n"),
		stack("symlink to what comes later", [][]File{{Symlink("a", "d"), {Name: "d/x"}, {Name: "a/y"}}}, ". d 755\na l 777 1 -> d\nd d 755\nd/x f 644\nd/y f 644\n"),
		stack("longest symlink", [][]File{{Symlink("a", strings.Repeat("t", 4095))}},
			". d 755\na l 777 4095 -> "+strings.Repeat("t", 4095)+"\n"),
		stack("many entries", [][]File{manyFiles(1500)}, manyWant(1500)),
		stack("sizes around a chunk", [][]File{{{Name: "0"}, {Name: "1", Content: "x"}, {Name: "4095", Content: pattern(4095)}, {Name: "4096", Content: pattern(4096)},
			{Name: "4097", Content: pattern(4097)},
			{Name: "c-", Content: pattern(1<<20 - 1)}, {Name: "c", Content: pattern(1 << 20)}, {Name: "c+", Content: pattern(1<<20 + 1)}, {Name: "2c", Content: pattern(2 << 20)}}},
			". d 755\n0 f 644\n1 f 644 1\n2c f 644 2097152\n4095 f 644 4095\n4096 f 644 4096\n4097 f 644 4097\nc f 644 1048576\nc+ f 644 1048577\nc- f 644 1048575\n"),
		stack("zeros are no holes", [][]File{{{Name: "z", Content: string(make([]byte, 3<<20+7))}, {Name: "zz", Content: string(make([]byte, 1<<20))}}},
			". d 755\nz f 644 3145735\nzz f 644 1048576\n"),
		stack("equal files", [][]File{{{Name: "a", Content: "same"}, {Name: "b", Content: "same"}}, {{Name: "c", Content: "same"}, {Name: "a", Content: "same", Mode: 0o600}}},
			". d 755\na f 600 4\nb f 644 4\nc f 644 4\n"),
		stack("global header", [][]File{{{Raw: globalHeader()}, {Name: "a"}}}, ". d 755\na f 644\n").
			but("umoci gives up at the type", Umoci),
	}
}

func manyFiles(n int) (files []File) {
	for i := range n {
		files = append(files, File{Name: fmt.Sprintf("m/%d", (i*7919)%n)})
	}
	return files
}

func manyWant(n int) string {
	var l Listing
	for i := range n {
		l = append(l, Entry{Path: fmt.Sprintf("m/%d", i), Type: "f", Mode: "0o644"})
	}
	return ". d 755\nm d 755\n" + Short(l.sorted())
}

// pattern returns n bytes that hardly repeat.
func pattern(n int) string {
	p := make([]byte, n)
	x := uint32(n) | 1
	for i := range p {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		p[i] = byte(x)
	}
	return string(p)
}

// globalHeader is what "git archive" writes first.
func globalHeader() []byte {
	body := "52 comment=0123456789012345678901234567890123456789\n"
	return append(rawHeader("pax_global_header", 'g', len(body), nil), padded([]byte(body))...)
}
