// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"time"
)

// whiteoutCases remove what is below.
func whiteoutCases() []Case {
	return []Case{
		stack("whiteout", [][]File{{Dir("d"), {Name: "d/a"}, {Name: "d/b"}}, {{Name: "d/.wh.a"}}}, ". d 755\nd d 755\nd/b f 644\n"),
		stack("whiteouts of the lowest layer", [][]File{{{Name: "d/.wh.a"}, {Name: ".wh..wh..opq"}, {Name: ".wh..wh.plnk"}}}, ". d 755\nd d 755\n").
			but("the opaque mark takes the directory that the layer itself implies", Containerd, ContainerdOverlay).
			but("umoci makes no parent for a whiteout", Umoci),
		stack("opaque, last in the tar", [][]File{{{Name: "d/a"}}, {{Name: "d/b"}, {Name: "d/.wh..wh..opq"}}}, ". d 755\nd d 755\nd/b f 644\n"),
		stack("whiteout beside the new file", [][]File{{{Name: "d/a"}}, {{Name: "d", Type: tar.TypeDir, Mode: 0o700}, {Name: ".wh.d"}}}, ". d 755\nd d 700\n").
			but("whiteouts are for lower layers alone (OCI), an engine takes entries one by one", Containerd, ContainerdOverlay, Docker),
		stack("removed and made again", [][]File{{{Name: "d/a"}}, {{Name: ".wh.d"}}, {{Name: "d/b"}}}, ". d 755\nd d 755\nd/b f 644\n"),
		stack("device 0:0 is a whiteout", [][]File{{{Name: "a"}}, {{Name: "a", Type: tar.TypeChar}}}, ". d 755\n").
			but("it is one to overlayfs alone", Containerd).
			but("umoci does not unpack for overlayfs", Umoci),
		stack("whiteout in an unlisted directory", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o1770, UID: 5}, {Name: "d/e/a"}, {Name: "d/e/b"}},
			{{Name: "d/e/.wh.a"}}},
			". d 755\nd d 1770\nd/e d 755\nd/e/b f 644\n").
			but("Docker gives directories that no entry lists 0755, root and now; we follow containerd", Docker),
		stack("whiteout of what is not there", [][]File{{{Name: "a"}}, {{Name: ".wh.b"}, {Name: "c"}}}, ". d 755\na f 644\nc f 644\n"),
		stack("whiteout in a directory that is not there", [][]File{{{Name: "a"}}, {{Name: "d/.wh.b"}}}, ". d 755\na f 644\nd d 755\n").
			but("umoci makes no parent for a whiteout", Umoci),
		stack("whiteout of a directory", [][]File{{{Name: "d/e/a"}, {Name: "d/b"}, {Name: "x"}}, {{Name: ".wh.d"}}}, ". d 755\nx f 644\n"),
		stack("whiteout, then the name again", [][]File{{{Name: "a", Content: "old", Mode: 0o600}}, {{Name: ".wh.a"}, {Name: "a", Content: "newer"}}},
			". d 755\na f 644 5\n"),
		stack("the name, then its whiteout", [][]File{{{Name: "a", Content: "old", Mode: 0o600}}, {{Name: "a", Content: "newer"}, {Name: ".wh.a"}}},
			". d 755\na f 644 5\n").
			but("whiteouts are for lower layers alone (OCI), an engine takes entries one by one", Containerd, ContainerdOverlay, Docker),
		stack("whiteout of a directory that comes again", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o700}, {Name: "d/old"}}, {{Name: ".wh.d"}, Dir("d"),
			{Name: "d/new"}}},
			". d 755\nd d 755\nd/new f 644\n").
			but("overlayfs joins the new directory with the removed one; we follow containerd on one directory, and OCI", ContainerdOverlay, Docker),
		stack("whiteout of a directory that is implied again", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o700}, {Name: "d/old"}}, {{Name: ".wh.d"},
			{Name: "d/new"}}},
			". d 755\nd d 755\nd/new f 644\n").
			but("an overlay driver takes the whiteout for a file in the way", ContainerdOverlay, Docker),
		stack("whiteout of a directory, opaque again", [][]File{{{Name: "d/old"}}, {{Name: ".wh.d"}, Dir("d"), {Name: "d/.wh..wh..opq"}, {Name: "d/new"}}},
			". d 755\nd d 755\nd/new f 644\n"),
		stack("whiteout that is a directory", [][]File{{{Name: "a"}, {Name: "b"}}, {Dir(".wh.a")}}, ". d 755\nb f 644\n"),
		stack("whiteout that is a link", [][]File{{{Name: "a"}, {Name: "b"}}, {Hardlink(".wh.a", "nowhere"), Symlink(".wh.b", "x")}}, ". d 755\n"),
		stack("whiteout of a whiteout's name", [][]File{{{Name: "a"}}, {{Name: ".wh.a"}}, {{Name: ".wh.a"}}}, ". d 755\n"),
		stack("whiteout of one name of a link", [][]File{{{Name: "a", Content: "x"}, Hardlink("b", "a"), Hardlink("c", "a")}, {{Name: ".wh.b"}}},
			". d 755\na f 644 n2 1\nc f 644 n2 1\n"),
		stack("whiteout below a lower symlink", [][]File{{{Name: "x/f"}, Symlink("a", "x")}, {{Name: "a/.wh.f"}}}, ". d 755\na d 755\nx d 755\nx/f f 644\n").
			but("on one directory, the link leads to what is removed; we follow the overlay drivers", Containerd).
			but("umoci has one directory", Umoci),
		stack("removed, made, removed, made", [][]File{{{Name: "a", Content: "1"}}, {{Name: ".wh.a"}}, {{Name: "a/b"}}, {{Name: ".wh.a"}}, {Symlink("a", "t")},
			{{Name: ".wh.a"}}, {{Name: "a", Content: "2"}}},
			". d 755\na f 644 1\n"),
		stack("opaque, first in the tar", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o750}, {Name: "d/a"}}, {Dir("d"), {Name: "d/.wh..wh..opq"},
			{Name: "d/b"}}},
			". d 755\nd d 755\nd/b f 644\n"),
		stack("opaque and unlisted", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o750, UID: 9}, {Name: "d/a"}}, {{Name: "d/.wh..wh..opq"}, {Name: "d/b"}}},
			". d 755\nd d 750\nd/b f 644\n").
			but("Docker gives directories that no entry lists 0755, root and now; we follow containerd", Docker),
		stack("opaque root", [][]File{{{Name: "a"}, {Name: "d/b"}}, {{Name: ".wh..wh..opq"}, {Name: "d/c"}}}, ". d 755\nd d 755\nd/c f 644\n").
			but("overlayfs ignores the mark at the root; we follow containerd on one directory, and OCI", ContainerdOverlay, Docker),
		stack("opaque, and a directory below again", [][]File{{{Name: "d/sub/old"}, {Name: "d/other"}}, {Dir("d"), {Name: "d/.wh..wh..opq"}, Dir("d/sub"),
			{Name: "d/sub/new"}}},
			". d 755\nd d 755\nd/sub d 755\nd/sub/new f 644\n"),
		stack("opaque last, and an implied directory below", [][]File{{{Name: "d/sub/old"}}, {{Name: "d/sub/new"}, {Name: "d/.wh..wh..opq"}}},
			". d 755\nd d 755\nd/sub d 755\nd/sub/new f 644\n").
			but("it takes what the layer implies for what was below", Containerd),
		stack("opaque where nothing is below", [][]File{{{Name: "a"}}, {Dir("d"), {Name: "d/.wh..wh..opq"}, {Name: "d/b"}}}, ". d 755\na f 644\nd d 755\nd/b f 644\n"),
		stack("opaque over a file", [][]File{{{Name: "d"}}, {Dir("d"), {Name: "d/.wh..wh..opq"}}}, ". d 755\nd d 755\n"),
		stack("opaque and whiteouts together", [][]File{{{Name: "d/a"}, {Name: "d/b"}}, {Dir("d"), {Name: "d/.wh.a"}, {Name: "d/.wh..wh..opq"}, {Name: "d/b", Content: "new"}}},
			". d 755\nd d 755\nd/b f 644 3\n"),
		stack("opaque through three layers", [][]File{{{Name: "d/a"}}, {{Name: "d/b"}}, {Dir("d"), {Name: "d/.wh..wh..opq"}}, {{Name: "d/c"}}},
			". d 755\nd d 755\nd/c f 644\n"),
		stack("metadata of AUFS", [][]File{{{Name: ".wh..wh.aufs"}, Dir(".wh..wh.orph"), Dir(".wh..wh.plnk"), {Name: "a"}}}, ". d 755\na f 644\n"),
		stack("links into the metadata of AUFS", [][]File{{Dir(".wh..wh.plnk"), {Name: ".wh..wh.plnk/12.34", Content: "x"}, Hardlink("a", ".wh..wh.plnk/12.34"),
			Hardlink("b", ".wh..wh.plnk/12.34")}},
			". d 755\na f 644 n2 1\nb f 644 n2 1\n").
			but("the names stay in sight, although OCI reserves them; Docker hides them with other drivers", Containerd, ContainerdOverlay, Docker).
			but("umoci leaves the names in sight", Umoci),
	}
}

// layerCases have layers that change what is below.
func layerCases() []Case {
	return []Case{
		stack("implicit parents keep what is below", [][]File{{{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777}, {Name: ".", Type: tar.TypeDir, Mode: 0o711}},
			{{Name: "tmp/a"}}},
			". d 711\ntmp d 1777\ntmp/a f 644\n").
			but("an engine leaves the root entry out, for the root that a container sees is that of its own layer; elsewhere the image shows what it says", Containerd, ContainerdOverlay).
			but("Docker gives directories that no entry lists 0755, root and now; we follow containerd", Docker),
		stack("listed parents replace", [][]File{{{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777, Xattrs: map[string]string{"user.x": "1"}}}, {{Name: "tmp", Type: tar.TypeDir, Mtime: time.Unix(0, 0)}}},
			". d 755\ntmp d 755\n").
			but("attributes of the old directory stay; we follow the overlay drivers", Containerd),
		stack("implicit directory over a file", [][]File{{{Name: "a", Mode: 0o600}}, {{Name: "a/b"}}}, ". d 755\na d 755\na/b f 644\n").
			but("on one directory, the file is in the way; we follow the overlay drivers", Containerd).
			but("umoci gives up", Umoci),
		stack("types change between layers", [][]File{{{Name: "f-l"}, Symlink("l-f", "t"), {Name: "d-f/x"}, {Name: "f-d"}, {Name: "p-d", Type: tar.TypeFifo},
			{Name: "d-c/x"}, Symlink("l-d", "x"), {Name: "x/y"}},
			{Symlink("f-l", "t"), {Name: "l-f", Content: "1"}, {Name: "d-f"}, Dir("f-d"), Dir("p-d"), {Name: "d-c", Type: tar.TypeChar, Dev: [2]int64{1, 3}},
				Dir("l-d"), {Name: "l-d/z"}}},
			". d 755\nd-c c 644 1:3\nd-f f 644\nf-d d 755\nf-l l 777 1 -> t\nl-d d 755\nl-d/z f 644\nl-f f 644 1\np-d d 755\nx d 755\nx/y f 644\n"),
		stack("directory over a symlink, unlisted", [][]File{{{Name: "x/f"}, Symlink("a", "x")}, {{Name: "a/b"}}}, ". d 755\na d 755\na/b f 644\nx d 755\nx/f f 644\n").
			but("on one directory, the link leads to where the file goes; we follow the overlay drivers", Containerd).
			but("umoci has one directory", Umoci),
		stack("implied directories keep all they had", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o2750, UID: 11, GID: 12, Mtime: time.Unix(1000, 0),
			Xattrs: map[string]string{"user.x": "1"}}, {Name: "d/e", Type: tar.TypeDir, Mode: 0o1777, UID: 13}}, {{Name: "d/e/f"}}, {{Name: "d/g"}}},
			". d 755\nd d 2750 user.x\nd/e d 1777\nd/e/f f 644\nd/g f 644\n").
			but("Docker gives directories that no entry lists 0755, root and now; we follow containerd", Docker),
		stack("implied over a removed directory", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o700, UID: 11}, {Name: "d/a"}}, {{Name: ".wh.d"}},
			{{Name: "d/b"}}},
			". d 755\nd d 755\nd/b f 644\n"),
		stack("directory attributes alone", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o700}, {Name: "d/a"}}, {{Name: "d", Type: tar.TypeDir, Mode: 0o755, UID: 1, Mtime: time.Unix(5, 0)}}},
			". d 755\nd d 755\nd/a f 644\n"),
		stack("the same layer twice", [][]File{{{Name: "d/a", Content: "x"}, Hardlink("b", "d/a"), Symlink("l", "b")}, {{Name: "d/a", Content: "x"},
			Hardlink("b", "d/a"), Symlink("l", "b")}},
			". d 755\nb f 644 n2 1\nd d 755\nd/a f 644 n2 1\nl l 777 1 -> b\n"),
		stack("layers without entries between", [][]File{{}, {{Name: "a"}}, {}, {{Name: ".wh.a"}, {Name: "b"}}, {}}, ". d 755\nb f 644\n"),
		stack("children of a directory that a middle layer replaced", [][]File{{{Name: "d/a"}}, {{Name: "d", Content: "file"}}, {{Name: "d/b"}}},
			". d 755\nd d 755\nd/b f 644\n").
			but("on one directory, the file is in the way; we follow the overlay drivers", Containerd).
			but("umoci gives up", Umoci),
	}
}
