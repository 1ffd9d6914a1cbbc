// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"path"
	"strings"

	"lighter/format"
)

// maxTreeDepth bounds directories in directories: paths have at most 4095 bytes.
const maxTreeDepth = 2048

// whiteoutPrefix begins names that remove something (OCI image layer specification).
const whiteoutPrefix = ".wh."

// maxFollowed is how many symbolic links one path may lead through, as in Linux.
const maxFollowed = 40

// walker goes through a tree.
type walker struct {
	b  *format.Bootstrap
	fn func(p string, i format.Inode) error

	// layer: names that remove something come first, for engines obey them in
	// the order of the tar.
	layer bool
}

// walk calls fn for the root, whose path is "", and all below it: a directory
// before what it holds, names in byte order.
func walk(b *format.Bootstrap, fn func(p string, i format.Inode) error) error {
	return (&walker{b: b, fn: fn}).root()
}

func (w *walker) root() error {
	root, err := w.b.Inode(w.b.Info().RootNid)
	if err != nil {
		return err
	}
	return w.below("", root, 0)
}

func (w *walker) below(p string, i format.Inode, depth int) error {
	if depth > maxTreeDepth {
		return fmt.Errorf("%.100q…: more than %d directories deep", p, maxTreeDepth)
	}
	if err := w.fn(p, i); err != nil || !i.IsDir() {
		return err
	}
	for _, whiteouts := range []bool{true, false} {
		if whiteouts && !w.layer {
			continue
		}
		err := children(w.b, i, func(name string, child format.Inode) error {
			if w.layer && strings.HasPrefix(name, whiteoutPrefix) != whiteouts {
				return nil
			}
			return w.below(path.Join(p, name), child, depth+1)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// children calls fn for what a directory holds.
func children(b *format.Bootstrap, dir format.Inode, fn func(name string, i format.Inode) error) error {
	var failed error
	err := b.Dirents(dir, 0, func(_ int, d format.Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		var child format.Inode
		if child, failed = b.Child(dir, d); failed == nil {
			failed = fn(d.Name, child)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

// Follow finds a file by its path. Symbolic links are followed inside the
// image, the last one too.
func Follow(b *format.Bootstrap, name string) (format.Inode, error) {
	at, rest := "/", strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	links := 0
	for len(rest) > 0 {
		next := path.Join(at, rest[0])
		i, err := b.LookupPath(strings.TrimPrefix(next, "/"))
		if err != nil {
			return format.Inode{}, err
		}
		if !i.IsSymlink() {
			at, rest = next, rest[1:]
			continue
		}
		if links++; links > maxFollowed {
			return format.Inode{}, fmt.Errorf("%s: more than %d symbolic links", name, maxFollowed)
		}
		to, err := b.Readlink(i)
		if err != nil {
			return format.Inode{}, err
		}
		if !path.IsAbs(to) {
			to = path.Join(at, to)
		}
		rest = append(strings.Split(strings.Trim(path.Clean("/"+to), "/"), "/"), rest[1:]...)
		at = "/"
	}
	return b.LookupPath(strings.TrimPrefix(at, "/"))
}
