// SPDX-License-Identifier: Apache-2.0

package format

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"lighter/format/internal/disk"
)

// Limits of the trees that are built. Linux sets the same ones for paths.
const (
	maxPath     = 4095 // bytes
	maxSymlinks = 40   // followed while one path is resolved
	maxDepth    = maxPath/2 + 1
)

// tree is a file system under construction. Several names may share a node:
// hard links.
type tree struct {
	root      *node
	lowers    map[string]*node   // stand-ins for files of lower layers, by path
	chunkSize uint32             // bytes
	inos      uint64             // tree entries, once encoded
	blobs     []disk.BlobEntry   // candidates for the blob table
	chunks    []disk.ChunkRecord // BlobIndex is an index of blobs
}

// node is an inode under construction.
type node struct {
	mode, uid, gid uint32 // mode is st_mode, with the type
	rdev           uint32 // Linux "new" encoding
	size           int64  // of regular files
	mtime          int64  // seconds
	nsec           uint32
	target         string // of a symbolic link
	xattrs         []Xattr
	chunks         []uint32         // indexes of tree.chunks
	children       map[string]*node // directories only

	// implicit: no layer entry lists this directory, it only leads to others.
	implicit bool

	// same is the lower layers' file that a stand-in of the layer being merged
	// is a hard link to.
	same *node

	placement
}

// placement is what number and layout find out about a node.
type placement struct {
	entries []treeEntry // of directories: sorted, with "." and ".."
	ino     uint32
	nlink   uint32
	placed  bool
	pos     int64 // of the inode, bytes from the meta address
	data    int64 // of the data of directories and symlinks, likewise
	dirSize int64 // bytes of the directory blocks

	first uint32 // RAFS v5: number of a directory's first child
}

// treeEntry is one name in a directory.
type treeEntry struct {
	name string
	node *node
}

func newDir(mode uint32) *node {
	return &node{mode: ModeDir | mode&0o7777, children: map[string]*node{}}
}

func newTree(chunkSize uint32) *tree {
	root := newDir(0o755)
	root.implicit = true
	return &tree{root: root, chunkSize: chunkSize}
}

func (n *node) isDir() bool     { return n.mode&ModeType == ModeDir }
func (n *node) isRegular() bool { return n.mode&ModeType == ModeRegular }
func (n *node) isSymlink() bool { return n.mode&ModeType == ModeSymlink }

// fileType is the type as directory entries have it.
func (n *node) fileType() uint8 {
	switch n.mode & ModeType {
	case ModeDir:
		return disk.FileTypeDir
	case ModeSymlink:
		return disk.FileTypeSymlink
	case ModeChar:
		return disk.FileTypeChar
	case ModeBlock:
		return disk.FileTypeBlock
	case ModeFIFO:
		return disk.FileTypeFIFO
	case ModeSocket:
		return disk.FileTypeSocket
	}
	return disk.FileTypeRegular
}

// setXattr adds or replaces one extended attribute, keeping them sorted.
func (n *node) setXattr(name string, value []byte) {
	i, found := slices.BinarySearchFunc(n.xattrs, name, func(x Xattr, name string) int {
		return strings.Compare(x.Name, name)
	})
	if found {
		n.xattrs[i].Value = value
		return
	}
	n.xattrs = slices.Insert(n.xattrs, i, Xattr{Name: name, Value: value})
}

// dir resolves a path to a directory. Symbolic links on the way are followed
// inside the tree: absolute targets begin at its root and ".." never leaves
// it. With create, missing directories are made, implicit ones. Without it, a
// missing directory gives nil.
func (t *tree) dir(path string, create bool) (*node, error) {
	way := make([]*node, 1, 16)
	way[0] = t.root
	for links := 0; path != ""; {
		var name string
		name, path, _ = strings.Cut(path, "/")
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			way = way[:max(1, len(way)-1)]
			continue
		}
		here := way[len(way)-1]
		next := here.children[name]
		switch {
		case next == nil && !create:
			return nil, nil
		case next == nil:
			if len(name) > disk.MaxName {
				return nil, fmt.Errorf("name %.40q… has %d bytes, more than %d", name, len(name), disk.MaxName)
			}
			if len(way) > maxDepth {
				return nil, fmt.Errorf("directories nest deeper than %d", maxDepth)
			}
			next = newDir(0o755)
			next.implicit = true
			here.children[name] = next
			way = append(way, next)
		case next.isDir():
			way = append(way, next)
		case next.isSymlink():
			if links++; links > maxSymlinks {
				return nil, fmt.Errorf("%q: too many symbolic links", name)
			}
			if strings.HasPrefix(next.target, "/") {
				way = way[:1]
			}
			path = next.target + "/" + path
		default:
			return nil, fmt.Errorf("%q is not a directory", name)
		}
	}
	return way[len(way)-1], nil
}

// sortEntries fills in the entries of all directories, in the byte order that
// readers search by.
func (t *tree) sortEntries() {
	if t.root.entries != nil {
		return
	}
	var rec func(n, parent *node)
	rec = func(n, parent *node) {
		n.entries = make([]treeEntry, 0, len(n.children)+2)
		n.entries = append(n.entries, treeEntry{".", n}, treeEntry{"..", parent})
		for name, child := range n.children {
			n.entries = append(n.entries, treeEntry{name, child})
		}
		slices.SortFunc(n.entries, func(a, b treeEntry) int { return cmp.Compare(a.name, b.name) })
		for _, child := range n.children {
			if child.isDir() {
				rec(child, n)
			}
		}
	}
	rec(t.root, t.root)
}

// walk calls fn for each name of the tree after sortEntries: the names of a
// directory in order, then what lies in its directories. The root has no name.
func (t *tree) walk(fn func(n *node)) {
	var rec func(d *node)
	rec = func(d *node) {
		for e := range d.names {
			fn(e.node)
		}
		for e := range d.names {
			if e.node.isDir() {
				rec(e.node)
			}
		}
	}
	rec(t.root)
}

// names yields the entries of a directory without "." and "..".
func (n *node) names(yield func(treeEntry) bool) {
	for _, e := range n.entries {
		if e.name != "." && e.name != ".." && !yield(e) {
			return
		}
	}
}

// number sorts the tree, gives out inode numbers, counts links and returns
// the number of tree entries. All names of a hard link have the number of the
// first one, and use one up each.
func (t *tree) number() uint64 {
	t.sortEntries()
	t.root.ino, t.root.nlink = 1, 2
	for e := range t.root.names {
		if e.node.isDir() {
			t.root.nlink++
		}
	}
	last := uint64(1)
	t.walk(func(n *node) {
		last++
		if n.ino == 0 {
			n.ino = uint32(last)
		}
		n.nlink++
		if n.isDir() {
			n.nlink = 2
			for e := range n.names {
				if e.node.isDir() {
					n.nlink++
				}
			}
		}
	})
	return last
}

// exact returns the node of a clean path without following symbolic links,
// or nil.
func (t *tree) exact(path string) *node {
	n := t.root
	for rest := strings.Trim(path, "/"); rest != "" && n != nil; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		n = n.children[name]
	}
	return n
}
