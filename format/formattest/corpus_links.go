// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
)

// linkCases have hard links.
func linkCases() []Case {
	return []Case{
		stack("hard links", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a"), Hardlink("d/c", "./b")}},
			". d 755\na f 644 n3 1\nb f 644 n3 1\nd d 755\nd/c f 644 n3 1\n"),
		stack("hard link takes attributes", [][]File{{{Name: "a"}, {Name: "b", Type: tar.TypeLink, Link: "/a", Mode: 0o4711, Xattrs: map[string]string{"user.x": "1"}}}},
			". d 755\na f 4711 n2 user.x\nb f 4711 n2 user.x\n").
			but("umoci leaves the attributes of the first entry", Umoci),
		stack("hard-linked symlink", [][]File{{Symlink("a", "t"), Hardlink("b", "a")}}, ". d 755\na l 777 n2 1 -> t\nb l 777 n2 1 -> t\n"),
		stack("link broken by a layer", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a")}, {{Name: "a", Content: "yy"}}}, ". d 755\na f 644 2\nb f 644 1\n"),
		stack("link to a lower file", [][]File{{{Name: "d/a", Content: "x"}, Hardlink("b", "d/a")}, {{Name: "c", Type: tar.TypeLink, Link: "d/a", Mode: 0o600},
			Hardlink("e", "/d/a")}},
			". d 755\nb f 644 n4 1\nc f 644 n4 1\nd d 755\nd/a f 644 n4 1\ne f 644 n4 1\n").
			but("overlayfs has no links between layers: they cannot be unpacked", ContainerdOverlay, Docker),
		stack("link to a lower file that goes", [][]File{{{Name: "a", Content: "x"}}, {Hardlink("c", "a"), {Name: ".wh.a"}}}, ". d 755\nc f 644 1\n").
			but("overlayfs has no links between layers: they cannot be unpacked", ContainerdOverlay, Docker),
		stack("link to a lower symlink", [][]File{{Symlink("a", "x")}, {Hardlink("c", "a")}}, ". d 755\na l 777 n2 1 -> x\nc l 777 n2 1 -> x\n").
			but("overlayfs has no links between layers: they cannot be unpacked", ContainerdOverlay, Docker),
		stack("links to links", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a"), Hardlink("c", "b"), Hardlink("d/e", "c"), Hardlink("f", "d/e")}},
			". d 755\na f 644 n5 1\nb f 644 n5 1\nc f 644 n5 1\nd d 755\nd/e f 644 n5 1\nf f 644 n5 1\n"),
		stack("link to a fifo and a device", [][]File{{{Name: "p", Type: tar.TypeFifo, Mode: 0o600}, {Name: "q", Type: tar.TypeLink, Link: "p", Mode: 0o600},
			{Name: "n", Type: tar.TypeChar, Dev: [2]int64{1, 3}}, Hardlink("m", "n")}},
			". d 755\nm c 644 n2 1:3\nn c 644 n2 1:3\np p 600 n2\nq p 600 n2\n"),
		stack("link target is replaced later", [][]File{{{Name: "a", Content: "old"}, Hardlink("b", "a"), {Name: "a", Content: "newer"}}},
			". d 755\na f 644 5\nb f 644 3\n"),
		stack("link replaces a file", [][]File{{{Name: "a", Content: "1"}, {Name: "b", Content: "22"}, Hardlink("b", "a")}}, ". d 755\na f 644 n2 1\nb f 644 n2 1\n"),
		stack("link replaces a directory", [][]File{{{Name: "a", Content: "1"}, {Name: "b/c"}, Hardlink("b", "a")}}, ". d 755\na f 644 n2 1\nb f 644 n2 1\n"),
		stack("link to itself", [][]File{{{Name: "a", Content: "1"}, Hardlink("a", "a")}}, ". d 755\na f 644 1\n").
			but("all remove the file before they look for the target; we keep it", Containerd, ContainerdOverlay, Docker).
			but("umoci removes the file before it looks for the target", Umoci),
		stack("link below a symlink", [][]File{{{Name: "x/f", Content: "1"}, Symlink("s", "x"), Hardlink("s/g", "s/f")}},
			". d 755\ns l 777 1 -> x\nx d 755\nx/f f 644 n2 1\nx/g f 644 n2 1\n"),
		stack("link in an implicit directory", [][]File{{{Name: "a", Content: "1"}, Hardlink("p/q/b", "/a")}, {Hardlink("x/y/c", "p/q/b")}},
			". d 755\na f 644 n3 1\np d 755\np/q d 755\np/q/b f 644 n3 1\nx d 755\nx/y d 755\nx/y/c f 644 n3 1\n").
			but("overlayfs has no links between layers: they cannot be unpacked", ContainerdOverlay, Docker),
		stack("all names but one are removed", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a"), Hardlink("d/c", "a"), Hardlink("d/e", "a")},
			{{Name: ".wh.a"}, {Name: ".wh.d"}}},
			". d 755\nb f 644 1\n"),
		stack("names split by layers", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a"), Hardlink("c", "a")}, {{Name: "b", Content: "yy"}, Hardlink("d", "b")},
			{{Name: "d", Type: tar.TypeDir}}},
			". d 755\na f 644 n2 1\nb f 644 2\nc f 644 n2 1\nd d 755\n"),
		stack("links repeated by a layer", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a")}, {{Name: "a", Content: "x"}, Hardlink("b", "a")}},
			". d 755\na f 644 n2 1\nb f 644 n2 1\n"),
		stack("link to a file that the layer also replaces", [][]File{{{Name: "a", Content: "old"}}, {Hardlink("b", "a"), {Name: "a", Content: "newer"}}},
			". d 755\na f 644 5\nb f 644 3\n").
			but("overlayfs has no links between layers: they cannot be unpacked", ContainerdOverlay, Docker),
		stack("link to a removed file", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a")}, {{Name: ".wh.a"}}, {Hardlink("c", "b")}},
			". d 755\nb f 644 n2 1\nc f 644 n2 1\n").
			but("overlayfs has no links between layers: they cannot be unpacked", ContainerdOverlay, Docker),
	}
}
