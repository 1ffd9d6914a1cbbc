// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"slices"
	"strings"
	"time"
)

// attributeCases have owners, modes, times, devices and extended attributes.
func attributeCases() []Case {
	return []Case{
		stack("devices", [][]File{{{Name: "c", Type: tar.TypeChar, Dev: [2]int64{259, 1048575}}, {Name: "b", Type: tar.TypeBlock, Dev: [2]int64{4095, 256}},
			{Name: "p", Type: tar.TypeFifo}}},
			". d 755\nb b 644 4095:256\nc c 644 259:1048575\np p 644\n"),
		stack("xattrs", [][]File{{{Name: "a", Xattrs: map[string]string{"trusted.overlay.opaque": "y", "trusted.lighter.implicit": "y", "odd.name": "1", "security.capability": capability}},
			{Name: "p", Type: tar.TypeFifo, Xattrs: map[string]string{"user.x": "1"}}}}, ". d 755\na f 644 security.capability\np p 644\n").
			but("Docker gives up at a name that Linux does not know; containerd leaves it out", Docker).
			but("umoci gives up at user.x on a FIFO", Umoci),
		stack("set-id and sticky bits", [][]File{{{Name: "u", Mode: 0o4755}, {Name: "g", Mode: 0o2644, GID: 5}, {Name: "s", Mode: 0o1777}, {Name: "d", Type: tar.TypeDir, Mode: 0o3777},
			{Name: "d/f"}, {Name: "n", Mode: 0o7000, UID: 3}}},
			". d 755\nd d 3777\nd/f f 644\ng f 2644\nn f 7000\ns f 1777\nu f 4755\n"),
		stack("type bits in the mode", [][]File{{{Name: "a", Mode: 0o100755}, {Name: "d", Type: tar.TypeDir, Mode: 0o40700}}}, ". d 755\na f 755\nd d 700\n"),
		stack("huge owners", [][]File{{{Name: "a", UID: 4294967294, GID: 4294967294}, {Name: "b", UID: 1 << 31, GID: 1<<31 - 1}, {Name: "c", UID: 3000000, GID: 2097152, GNU: true}}},
			". d 755\na f 644\nb f 644\nc f 644\n"),
		stack("owner minus one", [][]File{{{Name: "a", UID: 4294967295, GID: 4294967295}, {Name: "b", UID: 4294967295, GID: 7}}}, ". d 755\na f 644\nb f 644\n"),
		stack("negative owner", [][]File{{{Name: "a", UID: -2, GID: -2, GNU: true}}}, ". d 755\na f 644\n"),
		stack("times", [][]File{{{Name: "zero", Mtime: time.Unix(0, 0)}, {Name: "before", Mtime: time.Unix(-5, 0)}, {Name: "sub", Mtime: time.Unix(7, 123456789)},
			{Name: "last", Mtime: time.Unix(7, 999999999)},
			{Name: "late", Mtime: time.Unix(1<<33, 0)}, {Name: "never", Mtime: time.Unix(1e11, 0)}, {Name: "d", Type: tar.TypeDir, Mtime: time.Unix(5, 5)},
			{Name: "l", Type: tar.TypeSymlink, Link: "t", Mtime: time.Unix(6, 6)}}},
			". d 755\nbefore f 644\nd d 755\nl l 777 1 -> t\nlast f 644\nlate f 644\nnever f 644\nsub f 644\nzero f 644\n"),
		stack("times as comments of PAX", [][]File{{{Raw: append(paxHeader("mtime=-1.5", "atime=1800000000.25", "ctime=3"), rawHeader("neg", '0', 0, nil)...)},
			{Raw: append(paxHeader("mtime=1234567890.987654321987"), rawHeader("fine", '0', 0, nil)...)}, {Raw: append(paxHeader("mtime=12", "mtime=34"), rawHeader("twice", '0', 0, nil)...)}}},
			". d 755\nfine f 644\nneg f 644\ntwice f 644\n"),
		stack("owners of a symlink", [][]File{{{Name: "l", Type: tar.TypeSymlink, Link: "t", UID: 12, GID: 34, Mode: 0o600, Mtime: time.Unix(99, 0)}}},
			". d 755\nl l 777 1 -> t\n"),
		stack("fifo with device numbers", [][]File{{{Raw: rawHeader("p", '6', 0, func(h []byte) { copy(h[329:], "0000001\x00"); copy(h[337:], "0000002\x00") })},
			{Raw: rawHeader("q", '6', 0, nil)}}},
			". d 755\np p 644\nq p 644\n"),
		stack("block device 0:0 is none", [][]File{{{Name: "a"}}, {{Name: "a", Type: tar.TypeBlock}}}, ". d 755\na b 644 0:0\n"),
		stack("xattr values", [][]File{{{Name: "a", Xattrs: map[string]string{"user.empty": "", "user.binary": "\x00\xff=\n\x00", "user.large": strings.Repeat("v", 2000), "user.with.a.long.name." + longest[:220]: "1"}},
			{Name: "d", Type: tar.TypeDir, Xattrs: map[string]string{"user.d": "1", "trusted.t": "2"}}}},
			". d 755\n"+
				"a f 644 user.binary user.empty user.large user.with.a.long.name."+longest[:220]+"\n"+
				"d d 755 trusted.t user.d\n").
			but("containerd leaves out trusted attributes, Docker has them", Containerd, ContainerdOverlay).
			but("umoci leaves out empty values", Umoci),
		stack("xattrs of a symlink", [][]File{{{Name: "l", Type: tar.TypeSymlink, Link: "t", Xattrs: map[string]string{"trusted.t": "1", "user.u": "2"}}}},
			". d 755\nl l 777 1 -> t trusted.t\n").
			but("containerd leaves out trusted attributes", Containerd, ContainerdOverlay).
			but("Docker sets the attributes of what the link leads to", Docker).
			but("umoci gives up at user.u", Umoci),
		stack("access lists", [][]File{{{Name: "f", Mode: 0o775, Xattrs: map[string]string{"system.posix_acl_access": accessList}}, {Name: "d", Type: tar.TypeDir, Mode: 0o775, Xattrs: map[string]string{"system.posix_acl_access": accessList, "system.posix_acl_default": accessList}}}},
			". d 755\nd d 775 system.posix_acl_access system.posix_acl_default\nf f 775 system.posix_acl_access\n"),
		stack("default access lists", [][]File{{{Name: "d", Type: tar.TypeDir, Mode: 0o775, Xattrs: map[string]string{"system.posix_acl_default": accessList}},
			{Name: "d/f"}}},
			". d 755\nd d 775 system.posix_acl_default\nd/f f 644\n").
			but("what is unpacked below takes the list over; the layer does not say so", Containerd, ContainerdOverlay, Docker),
		stack("xattrs of libarchive", [][]File{{{Name: "a", PAX: map[string]string{"LIBARCHIVE.xattr.user.x": "dmFsdWU", "LIBARCHIVE.creationtime": "1", "SCHILY.fflags": "nodump", "SCHILY.dev": "5", "SCHILY.acl.access": "user::rw-"}}}},
			". d 755\na f 644\n"),
		stack("xattrs do not stay", [][]File{{{Name: "a", Content: "1", Xattrs: map[string]string{"user.old": "1"}}}, {{Name: "a", Content: "2", Xattrs: map[string]string{"user.new": "1"}}}},
			". d 755\na f 644 1 user.new\n"),
		stack("a later entry adds xattrs", [][]File{{{Name: "d", Type: tar.TypeDir, Xattrs: map[string]string{"user.one": "1"}}, {Name: "d", Type: tar.TypeDir, Mode: 0o700, Xattrs: map[string]string{"user.two": "2"}}}},
			". d 755\nd d 700 user.one user.two\n").
			but("umoci takes the earlier ones away", Umoci),
	}
}

// formatCases have tar formats besides the usual ones.
func formatCases() []Case {
	return []Case{
		stack("sparse, PAX 0.0", [][]File{{{Raw: paxSparse("0.0", "s", 100000, stretch{0, "begin"}, stretch{50000, "middle"})}, {Name: "after"}}},
			". d 755\nafter f 644\ns f 644 100000\n"),
		stack("sparse, PAX 0.1", [][]File{{{Raw: paxSparse("0.1", "s", 100000, stretch{512, pattern(600)}, stretch{99995, "tail!"})}, {Name: "after"}}},
			". d 755\nafter f 644\ns f 644 100000\n"),
		stack("sparse, PAX 1.0", [][]File{{{Raw: paxSparse("1.0", "dir/s", 3<<20+1, stretch{1 << 20, pattern(5000)}, stretch{3 << 20, "x"})}, {Name: "after"}}},
			". d 755\nafter f 644\ndir d 755\ndir/s f 644 3145729\n"),
		stack("all hole", [][]File{{{Raw: paxSparse("1.0", "s", 2<<20, stretch{2 << 20, ""})}, {Name: "after"}}}, ". d 755\nafter f 644\ns f 644 2097152\n"),
		stack("sparse, GNU", [][]File{{{Raw: gnuSparse("s", 1<<20, stretch{0, "begin"}, stretch{8192, pattern(100)}, stretch{1 << 19, "x"})}, {Name: "after"}}},
			". d 755\nafter f 644\ns f 644 1048576\n").
			but("an engine does not know the type", Containerd, ContainerdOverlay, Docker).
			but("umoci gives up at the type", Umoci),
		stack("sparse, GNU, extended", [][]File{{{Raw: gnuSparse("s", 1<<21, steps(30)...)}, {Name: "after"}}}, ". d 755\nafter f 644\ns f 644 2097152\n").
			but("an engine does not know the type", Containerd, ContainerdOverlay, Docker).
			but("umoci gives up at the type", Umoci),
		stack("the oldest tar", [][]File{{{Raw: oldest("d/", 0)}, {Raw: oldest("d/a", 0)}, {Raw: oldest("d/b", '1')}}},
			". d 755\nd d 644\nd/a f 644 n2\nd/b f 644 n2\n"),
		stack("contiguous file", [][]File{{{Name: "a", Type: tar.TypeCont}}}, ". d 755\na f 644\n").
			but("an engine does not know the type; POSIX has it read as a file", Containerd, ContainerdOverlay, Docker).
			but("umoci gives up at the type", Umoci),
		stack("PAX says otherwise", [][]File{{{Raw: slices.Concat(paxHeader("path=real/name", "size=5", "uid=70000", "gid=80000", "linkpath=no"), rawHeader("other", '0', 0, nil), padded([]byte("hello")))}}},
			". d 755\nreal d 755\nreal/name f 644 5\n"),
		stack("octal with spaces", [][]File{{{Raw: rawHeader("a", '0', 0, func(h []byte) {
			copy(h[100:], "   755 \x00")
			copy(h[108:], "    7 \x00")
			copy(h[136:], "         12 \x00")
		})}}}, ". d 755\na f 755\n"),
		stack("base-256 numbers", [][]File{{{Raw: rawHeader("a", '0', 0, func(h []byte) {
			copy(h[108:], "\x80\x00\x00\x00\x00\x01\x00\x05")
			copy(h[136:], "\x80\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00")
		})},
			{Raw: rawHeader("b", '0', 0, func(h []byte) { copy(h[136:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00") })}}}, ". d 755\na f 644\nb f 644\n"),
	}
}

// accessList is an access list in the form of Linux: rwx for the owner, r-x for
// user 1000, r-x for the group, mask rwx, r-x for others.
const accessList = "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\xe8\x03\x00\x00" +
	"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"

// steps returns n short stretches of data, a block apart.
func steps(n int) (s []stretch) {
	for i := range n {
		s = append(s, stretch{i * 8192, pattern(512)})
	}
	return s
}

// oldest returns an entry of the tar before POSIX: no magic, a link or else a
// file, or a directory when the name ends with a slash.
func oldest(name string, typeflag byte) []byte {
	return rawHeader(name, typeflag, 0, func(h []byte) {
		clear(h[257:])
		if typeflag == '1' {
			copy(h[157:], "d/a")
		}
	})
}
