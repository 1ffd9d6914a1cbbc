// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"

	"lighter/format"
)

// Tree is an image's tree to be compared.
type Tree struct {
	Bootstrap *format.Bootstrap
	Open      format.OpenBlob // nil: the data is not there; digests speak for it
}

// Difference is one path at which two trees differ.
type Difference struct {
	Path   string     `json:"path"` // absolute
	Change ChangeKind `json:"change"`
	What   []string   `json:"what,omitempty"` // of a changed one: type, mode, owner, mtime, size, target, device, links, xattrs, content
}

// ChangeKind says what the second tree has at a path.
type ChangeKind string

// What the second tree has.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// CompareTrees calls fn for each difference of two trees, in the order of
// paths. Contents are compared by the digests of chunks where both trees have
// the same chunk size and digester, else byte by byte: only files of equal
// size are read. The time of a root is left out: builders choose it.
func CompareTrees(ctx context.Context, a, b Tree, fn func(Difference) error) error {
	c := &comparer{ctx: ctx, fn: fn}
	c.side[0].open(a)
	c.side[1].open(b)
	defer c.side[0].close()
	defer c.side[1].close()
	ra, err := a.Bootstrap.Inode(a.Bootstrap.Info().RootNid)
	if err != nil {
		return err
	}
	rb, err := b.Bootstrap.Inode(b.Bootstrap.Info().RootNid)
	if err != nil {
		return err
	}
	return c.both("", ra, rb, 0)
}

type comparer struct {
	ctx  context.Context
	fn   func(Difference) error
	side [2]compareSide
}

type compareSide struct {
	Tree
	content *format.Content
	names   map[uint64]string // first path of inodes with several names
	buf     []byte
}

func (s *compareSide) open(t Tree) {
	s.Tree, s.names = t, map[uint64]string{}
	if t.Open != nil {
		s.content = t.Bootstrap.Content(t.Open)
	}
}

func (s *compareSide) close() {
	if s.content != nil {
		s.content.Close()
	}
}

// linked gives the first name of a hard link, "" for files with one name.
func (s *compareSide) linked(p string, i format.Inode) string {
	if i.IsDir() || i.Nlink < 2 {
		return ""
	}
	if first, ok := s.names[i.Nid]; ok {
		return first
	}
	s.names[i.Nid] = p
	return p
}

func (s *compareSide) list(dir format.Inode) (map[string]format.Inode, error) {
	out := map[string]format.Inode{}
	return out, children(s.Bootstrap, dir, func(name string, i format.Inode) error {
		out[name] = i
		return nil
	})
}

func (c *comparer) both(p string, a, b format.Inode, depth int) error {
	if depth > maxTreeDepth {
		return fmt.Errorf("%.100q…: more than %d directories deep", p, maxTreeDepth)
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	what, err := c.differ(p, a, b)
	if err != nil {
		return fmt.Errorf("/%s: %w", p, err)
	}
	if len(what) > 0 {
		if err := c.fn(Difference{"/" + p, Changed, what}); err != nil {
			return err
		}
	}
	var in [2]map[string]format.Inode
	for k, i := range []format.Inode{a, b} {
		if i.IsDir() {
			if in[k], err = c.side[k].list(i); err != nil {
				return err
			}
		}
	}
	for _, name := range union(in[0], in[1]) {
		x, okA := in[0][name]
		y, okB := in[1][name]
		at := path.Join(p, name)
		switch {
		case okA && okB:
			err = c.both(at, x, y, depth+1)
		case okA:
			err = c.only(0, Removed, at, x)
		default:
			err = c.only(1, Added, at, y)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func union(a, b map[string]format.Inode) []string {
	var names []string
	for n := range a {
		names = append(names, n)
	}
	for n := range b {
		if _, ok := a[n]; !ok {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// only reports a path that one side alone has, and all below it.
func (c *comparer) only(k int, change ChangeKind, p string, i format.Inode) error {
	w := &walker{b: c.side[k].Bootstrap, fn: func(below string, i format.Inode) error {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		c.side[k].linked(below, i)
		return c.fn(Difference{Path: "/" + below, Change: change})
	}}
	return w.below(p, i, 0)
}

// differ names what differs of two files of one path.
func (c *comparer) differ(p string, a, b format.Inode) ([]string, error) {
	var what []string
	note := func(differs bool, name string) {
		if differs {
			what = append(what, name)
		}
	}
	linkA, linkB := c.side[0].linked(p, a), c.side[1].linked(p, b)
	if a.Mode&format.ModeType != b.Mode&format.ModeType {
		return []string{"type"}, nil
	}
	note(a.Mode != b.Mode, "mode")
	note(a.UID != b.UID || a.GID != b.GID, "owner")
	note(p != "" && (a.Mtime != b.Mtime || a.MtimeNsec != b.MtimeNsec), "mtime")
	note(!a.IsDir() && (a.Nlink != b.Nlink || linkA != linkB), "links")
	xattrs, err := c.xattrsDiffer(a, b)
	if err != nil {
		return nil, err
	}
	note(xattrs, "xattrs")
	switch a.Mode & format.ModeType {
	case format.ModeSymlink:
		to, err := c.side[0].Bootstrap.Readlink(a)
		if err != nil {
			return nil, err
		}
		other, err := c.side[1].Bootstrap.Readlink(b)
		if err != nil {
			return nil, err
		}
		note(to != other, "target")
	case format.ModeChar, format.ModeBlock:
		note(a.Rdev != b.Rdev, "device")
	case format.ModeRegular:
		if note(a.Size != b.Size, "size"); a.Size != b.Size {
			break
		}
		if linkA != "" && linkA == linkB && linkA != p {
			break // compared under its first name
		}
		differ, err := c.contentDiffers(a, b)
		if err != nil {
			return nil, err
		}
		note(differ, "content")
	}
	return what, nil
}

func (c *comparer) xattrsDiffer(a, b format.Inode) (bool, error) {
	x, err := c.side[0].Bootstrap.Xattrs(a)
	if err != nil {
		return false, err
	}
	y, err := c.side[1].Bootstrap.Xattrs(b)
	if err != nil {
		return false, err
	}
	return !slices.EqualFunc(x, y, func(a, b format.Xattr) bool {
		return a.Name == b.Name && bytes.Equal(a.Value, b.Value)
	}), nil
}

// chunkSum identifies a chunk's content.
type chunkSum struct {
	by     format.Digester
	digest [32]byte
	size   uint32
}

func (c *comparer) contentDiffers(a, b format.Inode) (bool, error) {
	if a.Size == 0 {
		return false, nil
	}
	x, err := c.side[0].chunks(a)
	if err != nil {
		return false, err
	}
	y, err := c.side[1].chunks(b)
	if err != nil {
		return false, err
	}
	if slices.Equal(x, y) {
		return false, nil
	}
	alike := len(x) == len(y)
	for k := 0; alike && k < len(x); k++ {
		alike = x[k].size == y[k].size && x[k].by == y[k].by
	}
	if alike {
		return true, nil
	}
	if c.side[0].content == nil || c.side[1].content == nil {
		return false, fmt.Errorf("its chunks cannot be compared: they differ in size or digest")
	}
	return c.bytesDiffer(a, b)
}

func (s *compareSide) chunks(i format.Inode) ([]chunkSum, error) {
	var out []chunkSum
	blobs := s.Bootstrap.Blobs()
	err := s.Bootstrap.FileChunks(i, 0, i.Size, func(_ int64, ch format.Chunk) bool {
		out = append(out, chunkSum{blobs[ch.BlobIndex].Digester, ch.Digest, ch.UncompressedSize})
		return true
	})
	return out, err
}

func (c *comparer) bytesDiffer(a, b format.Inode) (bool, error) {
	const piece = 1 << 20
	for k := range c.side {
		if c.side[k].buf == nil {
			c.side[k].buf = make([]byte, piece)
		}
	}
	for off := int64(0); off < a.Size; off += piece {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		n := min(piece, a.Size-off)
		for k, i := range []format.Inode{a, b} {
			if _, err := c.side[k].content.ReadAt(i, c.side[k].buf[:n], off); err != nil && err != io.EOF {
				return false, err
			}
		}
		if !bytes.Equal(c.side[0].buf[:n], c.side[1].buf[:n]) {
			return true, nil
		}
	}
	return false, nil
}
