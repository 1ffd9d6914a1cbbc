// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Case is a stack of layers, the lowest first, and what a container sees of it.
type Case struct {
	Name   string
	Layers [][]File
	Want   string // as Short writes it; or, of hostile cases, part of the error
}

// Short writes a listing in short, a line for each entry: path, type, mode,
// then where there is something to tell: links, size, target, device, xattrs.
func Short(l Listing) string {
	var b strings.Builder
	for _, e := range l {
		fmt.Fprintf(&b, "%s %s %s", e.Path, e.Type, strings.TrimPrefix(e.Mode, "0o"))
		if e.Nlink > 1 {
			fmt.Fprintf(&b, " n%d", e.Nlink)
		}
		if e.Size != 0 {
			fmt.Fprintf(&b, " %d", e.Size)
		}
		if e.Link != "" {
			fmt.Fprintf(&b, " -> %s", e.Link)
		}
		if e.Rdev != "" {
			fmt.Fprintf(&b, " %s", e.Rdev)
		}
		for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
			fmt.Fprintf(&b, " %s", name)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

var longest = strings.Repeat("n", 255)

// capability is a value of security.capability that Linux accepts.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// Corpus returns layers that are easy to get wrong.
func Corpus() []Case {
	return []Case{
		{"no entries", [][]File{{}}, ". d 755\n"},
		{"root", [][]File{{{Name: "./", Type: tar.TypeDir, Mode: 0o1700}}}, ". d 1700\n"},
		{"implicit parents", [][]File{{{Name: "a/b/c", Content: "x"}}}, ". d 755\na d 755\na/b d 755\na/b/c f 644 1\n"},
		{"absolute", [][]File{{{Name: "/a"}, {Name: "/../b"}}}, ". d 755\na f 644\nb f 644\n"},
		{"out of the root", [][]File{{{Name: "../a"}, {Name: "b/../../c"}, Hardlink("d", "../../a")}}, ". d 755\na f 644 n2\nc f 644\nd f 644 n2\n"},
		{"hidden names", [][]File{{{Name: ".a"}, {Name: "./.b/..c"}, {Name: "..."}}},
			". d 755\n... f 644\n.a f 644\n.b d 755\n.b/..c f 644\n"},
		{"last wins", [][]File{{{Name: "a", Content: "12"}, {Name: "a", Content: "1", Mode: 0o4755}}}, ". d 755\na f 4755 1\n"},
		{"directory twice", [][]File{{Dir("a"), {Name: "a/b"}, {Name: "a/", Type: tar.TypeDir, Mode: 0o700}}}, ". d 755\na d 700\na/b f 644\n"},
		{"file over directory", [][]File{{Dir("a"), {Name: "a/b"}, {Name: "a"}}}, ". d 755\na f 644\n"},
		{"directory over file", [][]File{{{Name: "a"}, Dir("a"), {Name: "a/b"}}}, ". d 755\na d 755\na/b f 644\n"},
		{"below a symlink", [][]File{{Dir("x"), Symlink("a", "/x"), {Name: "a/b"}}}, ". d 755\na l 777 2 -> /x\nx d 755\nx/b f 644\n"},
		{"symlink over directory", [][]File{{Dir("x"), Dir("a"), {Name: "a/old"}, Symlink("a", "x"), {Name: "a/b"}}},
			". d 755\na l 777 1 -> x\nx d 755\nx/b f 644\n"},
		{"symlink out of the root", [][]File{{Symlink("a", "../../.."), {Name: "a/b"}}}, ". d 755\na l 777 8 -> ../../..\nb f 644\n"},
		{"hard links", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a"), Hardlink("d/c", "./b")}},
			". d 755\na f 644 n3 1\nb f 644 n3 1\nd d 755\nd/c f 644 n3 1\n"},
		{"hard link takes attributes", [][]File{{{Name: "a"}, {Name: "b", Type: tar.TypeLink, Link: "/a", Mode: 0o4711, Xattrs: map[string]string{"user.x": "1"}}}},
			". d 755\na f 4711 n2 user.x\nb f 4711 n2 user.x\n"},
		{"hard-linked symlink", [][]File{{Symlink("a", "t"), Hardlink("b", "a")}}, ". d 755\na l 777 n2 1 -> t\nb l 777 n2 1 -> t\n"},
		{"devices", [][]File{{{Name: "c", Type: tar.TypeChar, Dev: [2]int64{259, 1048575}}, {Name: "b", Type: tar.TypeBlock, Dev: [2]int64{4095, 256}}, {Name: "p", Type: tar.TypeFifo}}},
			". d 755\nb b 644 4095:256\nc c 644 259:1048575\np p 644\n"},
		{"xattrs", [][]File{{{Name: "a", Xattrs: map[string]string{"trusted.overlay.opaque": "y", "trusted.lighter.implicit": "y", "odd.name": "1", "security.capability": capability}},
			{Name: "p", Type: tar.TypeFifo, Xattrs: map[string]string{"user.x": "1"}}}}, ". d 755\na f 644 security.capability\np p 644\n"},
		{"longest name", [][]File{{{Name: longest}}}, ". d 755\n" + longest + " f 644\n"},
		{"whiteout", [][]File{{Dir("d"), {Name: "d/a"}, {Name: "d/b"}}, {{Name: "d/.wh.a"}}}, ". d 755\nd d 755\nd/b f 644\n"},
		{"whiteouts of the lowest layer", [][]File{{{Name: "d/.wh.a"}, {Name: ".wh..wh..opq"}, {Name: ".wh..wh.plnk"}}}, ". d 755\nd d 755\n"},
		{"opaque, last in the tar", [][]File{{{Name: "d/a"}}, {{Name: "d/b"}, {Name: "d/.wh..wh..opq"}}}, ". d 755\nd d 755\nd/b f 644\n"},
		{"whiteout beside the new file", [][]File{{{Name: "d/a"}}, {{Name: "d", Type: tar.TypeDir, Mode: 0o700}, {Name: ".wh.d"}}}, ". d 755\nd d 700\n"},
		{"removed and made again", [][]File{{{Name: "d/a"}}, {{Name: ".wh.d"}}, {{Name: "d/b"}}}, ". d 755\nd d 755\nd/b f 644\n"},
		{"device 0:0 is a whiteout", [][]File{{{Name: "a"}}, {{Name: "a", Type: tar.TypeChar}}}, ". d 755\n"},
		{"implicit parents keep what is below", [][]File{{{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777}, {Name: ".", Type: tar.TypeDir, Mode: 0o711}}, {{Name: "tmp/a"}}},
			". d 711\ntmp d 1777\ntmp/a f 644\n"},
		{"listed parents replace", [][]File{{{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777, Xattrs: map[string]string{"user.x": "1"}}}, {{Name: "tmp", Type: tar.TypeDir, Mtime: time.Unix(0, 0)}}},
			". d 755\ntmp d 755\n"},
		{"implicit directory over a file", [][]File{{{Name: "a", Mode: 0o600}}, {{Name: "a/b"}}}, ". d 755\na d 755\na/b f 644\n"},
		{"link broken by a layer", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a")}, {{Name: "a", Content: "yy"}}}, ". d 755\na f 644 2\nb f 644 1\n"},
		{"link to a lower file", [][]File{{{Name: "d/a", Content: "x"}, Hardlink("b", "d/a")}, {{Name: "c", Type: tar.TypeLink, Link: "d/a", Mode: 0o600}, Hardlink("e", "/d/a")}},
			". d 755\nb f 644 1\nc f 644 n3 1\nd d 755\nd/a f 644 n3 1\ne f 644 n3 1\n"},
		{"link to a lower file that goes", [][]File{{{Name: "a", Content: "x"}}, {Hardlink("c", "a"), {Name: ".wh.a"}}}, ". d 755\nc f 644 1\n"},
		{"link to a lower symlink", [][]File{{Symlink("a", "x")}, {Hardlink("c", "a")}}, ". d 755\na l 777 n2 1 -> x\nc l 777 n2 1 -> x\n"},
	}
}

// Hostile returns layers that must be refused.
func Hostile() []Case {
	return []Case{
		{"root file", [][]File{{{Name: "."}}}, "root must be a directory"},
		{"root link", [][]File{{Symlink("/", "/etc")}}, "root must be a directory"},
		{"name", [][]File{{{Name: strings.Repeat("n", 256)}}}, "256 bytes"},
		{"parent", [][]File{{{Name: strings.Repeat("n", 256) + "/a"}}}, "256 bytes"},
		{"path", [][]File{{{Name: strings.Repeat("n/", 2048) + "x"}}}, "more than 4095"},
		{"symlink", [][]File{{Symlink("a", strings.Repeat("n", 4096))}}, "target of 4096 bytes"},
		{"loop", [][]File{{Symlink("a", "b"), Symlink("b", "a"), {Name: "a/x"}}}, "too many symbolic links"},
		{"below a file", [][]File{{{Name: "a"}, {Name: "a/b"}}}, "not a directory"},
		{"directory", [][]File{{Dir("a"), Hardlink("b", "a")}}, "link to a directory"},
		{"missing", [][]File{{Hardlink("b", "a")}}, "no layer has this file"},
		{"missing in all", [][]File{{{Name: "x"}}, {Hardlink("b", "a")}}, "no layer has this file"},
		{"lower directory", [][]File{{Dir("a")}, {Hardlink("b", "a")}}, "it is a directory"},
		{"type", [][]File{{{Name: "a", Type: 'Z'}}}, "unknown entry type"},
		{"device", [][]File{{{Name: "a", Type: tar.TypeChar, Dev: [2]int64{4096, 0}}}}, "device number"},
		{"xattr name", [][]File{{{Name: "a", Xattrs: map[string]string{"user.": "1"}}}}, "xattr"},
		{"xattr value", [][]File{{{Name: "a", Xattrs: map[string]string{"user.x": strings.Repeat("v", 1<<16)}}}}, "xattr"},
	}
}
