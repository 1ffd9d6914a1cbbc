// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Case is a stack of layers, the lowest first, and what a container sees of it.
type Case struct {
	Name   string // what it breaks
	Layers [][]File
	Want   string // as Short writes it; or, of hostile cases, part of the error

	// Differs says of each witness that shows something else why it is not
	// the one to follow. Those that are not named show the same.
	Differs map[Witness]string
}

// Witness is another implementation of layers.
type Witness string

// The witnesses. Containerd applies all layers to one directory, as for its
// native snapshotter; ContainerdOverlay and Docker give each layer a directory
// and let overlayfs join them.
const (
	Containerd        Witness = "containerd"
	ContainerdOverlay Witness = "containerd, overlay"
	Docker            Witness = "Docker, overlay2"
	Umoci             Witness = "umoci"
)

func stack(name string, layers [][]File, want string) Case {
	return Case{Name: name, Layers: layers, Want: want}
}

// but adds to Differs.
func (c Case) but(why string, who ...Witness) Case {
	c.Differs = maps.Clone(c.Differs)
	if c.Differs == nil {
		c.Differs = map[Witness]string{}
	}
	for _, w := range who {
		c.Differs[w] = why
	}
	return c
}

// Corpus returns stacks of layers that are easy to get wrong.
func Corpus() []Case {
	return slices.Concat(nameCases(), entryCases(), linkCases(), attributeCases(), formatCases(), whiteoutCases(), layerCases())
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

// Hostile returns layers that must be refused.
func Hostile() []Case {
	return []Case{
		stack("root file", [][]File{{{Name: "."}}}, "root must be a directory"),
		stack("root link", [][]File{{Symlink("/", "/etc")}}, "root must be a directory"),
		stack("owner of more than 32 bits", [][]File{{{Raw: rawHeader("a", '0', 0, func(h []byte) { copy(h[108:], "\x80\x00\x00\x01\x00\x00\x00\x00") })}}}, "owner 4294967296:0"),
		stack("whiteout of nothing", [][]File{{{Name: "d/.wh."}}}, "whiteout of"),
		stack("whiteout of the parent", [][]File{{{Name: "d/.wh..."}}}, "whiteout of"),
		stack("link ahead of its target", [][]File{{Hardlink("b", "a"), {Name: "a"}}}, "no layer has this file"),
		stack("socket", [][]File{{{Name: "a", Type: 's'}}}, "unknown entry type"),
		stack("name", [][]File{{{Name: strings.Repeat("n", 256)}}}, "256 bytes"),
		stack("parent", [][]File{{{Name: strings.Repeat("n", 256) + "/a"}}}, "256 bytes"),
		stack("path", [][]File{{{Name: strings.Repeat("n/", 2048) + "x"}}}, "more than 4095"),
		stack("symlink", [][]File{{Symlink("a", strings.Repeat("n", 4096))}}, "target of 4096 bytes"),
		stack("loop", [][]File{{Symlink("a", "b"), Symlink("b", "a"), {Name: "a/x"}}}, "too many symbolic links"),
		stack("below a file", [][]File{{{Name: "a"}, {Name: "a/b"}}}, "not a directory"),
		stack("directory", [][]File{{Dir("a"), Hardlink("b", "a")}}, "link to a directory"),
		stack("missing", [][]File{{Hardlink("b", "a")}}, "no layer has this file"),
		stack("missing in all", [][]File{{{Name: "x"}}, {Hardlink("b", "a")}}, "no layer has this file"),
		stack("lower directory", [][]File{{Dir("a")}, {Hardlink("b", "a")}}, "it is a directory"),
		stack("type", [][]File{{{Name: "a", Type: 'Z'}}}, "unknown entry type"),
		stack("device", [][]File{{{Name: "a", Type: tar.TypeChar, Dev: [2]int64{4096, 0}}}}, "device number"),
		stack("xattr name", [][]File{{{Name: "a", Xattrs: map[string]string{"user.": "1"}}}}, "xattr"),
		stack("xattr value", [][]File{{{Name: "a", Xattrs: map[string]string{"user.x": strings.Repeat("v", 1<<16)}}}}, "xattr"),
	}
}
