// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"fmt"
	"strings"
)

// nameCases have names that are hard to keep.
func nameCases() []Case {
	return []Case{
		stack("absolute", [][]File{{{Name: "/a"}, {Name: "/../b"}}}, ". d 755\na f 644\nb f 644\n").
			but("Docker refuses names that lead out of the root", Docker),
		stack("out of the root", [][]File{{{Name: "../a"}, {Name: "b/../../c"}, Hardlink("d", "../../a")}}, ". d 755\na f 644 n2\nc f 644\nd f 644 n2\n").
			but("Docker refuses names that lead out of the root", Docker),
		stack("hidden names", [][]File{{{Name: ".a"}, {Name: "./.b/..c"}, {Name: "..."}}},
			". d 755\n... f 644\n.a f 644\n.b d 755\n.b/..c f 644\n"),
		stack("longest name", [][]File{{{Name: longest}}}, ". d 755\n"+longest+" f 644\n"),
		stack("dots inside names", [][]File{{{Name: "./a//b/./c"}, {Name: "x/../y"}, {Name: "d/.", Type: tar.TypeDir, Mode: 0o700}}},
			". d 755\na d 755\na/b d 755\na/b/c f 644\nd d 700\ny f 644\n"),
		stack("dot-dot behind a symlink", [][]File{{Dir("far/away"), Symlink("l", "far/away"), {Name: "l/../b"}}},
			". d 755\nb f 644\nfar d 755\nfar/away d 755\nl l 777 8 -> far/away\n"),
		stack("trailing slash", [][]File{{{Raw: rawHeader("a/", '0', 0, nil)}, {Name: "d//", Type: tar.TypeDir}, {Raw: rawHeader("d/l/", '2', 0, func(h []byte) { copy(h[157:], "/a/") })}}},
			". d 755\na f 644\nd d 755\nd/l l 777 3 -> /a/\n"),
		stack("empty name", [][]File{{{Raw: rawHeader("", '5', 0, nil)}, {Name: "a"}}}, ". d 755\na f 644\n").
			but("umoci takes it for the root", Umoci),
		stack("names of no encoding", [][]File{{{Name: "\xff\xfe"}, {Name: "\x80/\xc3\x28"}, {Name: "a\xf5", GNU: true}, {Name: "new\nline"}, {Name: "tab\tand \\ % ' \""}}},
			"%80 d 755\n%80/%c3( f 644\n%ff%fe f 644\n. d 755\na%f5 f 644\nnew%0aline f 644\ntab%09and%20\\%20%25%20'%20\" f 644\n"),
		stack("names that look alike", [][]File{{{Name: "a", Content: "1"}, {Name: "A", Content: "22"}, {Name: "\u00e9", Content: "333"}, {Name: "e\u0301", Content: "4444"},
			{Name: "a ", Content: "55555"}}},
			". d 755\nA f 644 2\na f 644 1\na  f 644 5\né f 644 4\né f 644 3\n"),
		stack("names almost of whiteouts", [][]File{{{Name: "wh.a"}, {Name: ".wh"}, {Name: ".whx"}, {Name: "x.wh.a"}, {Name: "a"}, {Name: "x"}}, {{Name: ".WH.a"},
			{Name: ".wh"}}},
			". d 755\n.WH.a f 644\n.wh f 644\n.whx f 644\na f 644\nwh.a f 644\nx f 644\nx.wh.a f 644\n"),
		stack("long names fill blocks", [][]File{longNames(40)}, longNamesWant(40)),
		stack("deep path", [][]File{{{Name: strings.Repeat("d/", 1000) + "f", Content: "x"}}}, deepWant(1000)),
		stack("path in prefix and name", [][]File{{{Raw: prefixed("dir/dir", "file")}}}, ". d 755\ndir d 755\ndir/dir d 755\ndir/dir/file f 644\n"),
		stack("long path of GNU tar", [][]File{{{Name: longest[:200] + "/" + longest[:200] + "/f", GNU: true}, {Name: "l", Type: tar.TypeSymlink, Link: longest + "/f", GNU: true}}},
			". d 755\nl l 777 257 -> "+longest+"/f\n"+longest[:200]+" d 755\n"+longest[:200]+"/"+longest[:200]+" d 755\n"+longest[:200]+"/"+longest[:200]+"/f f 644\n"),
	}
}

// longNames returns n files whose names have 255 bytes.
func longNames(n int) (files []File) {
	for i := range n {
		files = append(files, File{Name: fmt.Sprintf("%03d", i) + longest[3:]})
	}
	return files
}

func longNamesWant(n int) string {
	want := ". d 755\n"
	for _, f := range longNames(n) {
		want += f.Name + " f 644\n"
	}
	return want
}

func deepWant(n int) string {
	var want strings.Builder
	want.WriteString(". d 755\n")
	for i := range n {
		fmt.Fprintf(&want, "%s d 755\n", strings.Repeat("d/", i)+"d")
	}
	return want.String() + strings.Repeat("d/", n) + "f f 644 1\n"
}

// prefixed returns an entry whose path is split as ustar does it.
func prefixed(prefix, name string) []byte {
	return rawHeader(name, '0', 0, func(h []byte) { copy(h[345:], prefix) })
}
