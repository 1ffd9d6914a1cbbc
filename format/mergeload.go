// SPDX-License-Identifier: Apache-2.0

package format

import (
	"encoding/hex"
	"fmt"
	"slices"

	"lighter/format/internal/disk"
)

// layerLoader reads the bootstrap of one layer into a tree. Blobs and chunks
// go into the merged tree, which counts for all layers.
type layerLoader struct {
	b      *Bootstrap
	tree   *tree             // of the layer
	merged *tree             // has blobs and chunks
	blobs  []uint32          // index of the layer's blob → index of merged.blobs
	chunks map[uint64]uint32 // blob<<32 | chunk number → index of merged.chunks
	files  map[uint64]*node  // nid → node, for hard links
	ours   bool              // the layer has our marks
	// budget is the number of bytes of the bootstrap that nothing has used
	// yet. Structures of a sound image do not overlap.
	budget int64
}

// load reads a layer.
func (m *merger) load(l MergeLayer) (*tree, error) {
	b := l.Bootstrap
	x := &layerLoader{
		b: b, tree: newTree(b.Info().ChunkSize), merged: m.tree, budget: b.size,
		chunks: map[uint64]uint32{}, files: map[uint64]*node{},
		ours: disk.CString(b.sb.VolumeName[:]) == layerVolume,
	}
	for i := range b.Blobs() {
		k, err := m.blob(l, i)
		if err != nil {
			return nil, err
		}
		x.blobs = append(x.blobs, k)
	}
	i, err := b.Inode(b.Info().RootNid)
	if err != nil {
		return nil, err
	}
	if b.v5 != nil {
		if x.ours, err = x.marked(i); err != nil {
			return nil, err
		}
	}
	x.tree.root, err = x.node(i)
	if err != nil {
		return nil, err
	}
	r := x.tree.root
	if !x.ours && r.mode == ModeDir|0o755 && r.uid|r.gid == 0 && r.mtime == 0 && r.nsec == 0 && len(r.xattrs) == 0 {
		// What the reference builder makes up for layers that do not list it.
		r.implicit = true
	}
	return x.tree, x.dir(i, r, 0)
}

// marked reports whether the root of a layer of RAFS v5 says that it has our marks.
func (x *layerLoader) marked(root Inode) (bool, error) {
	xattrs, err := x.b.Xattrs(root)
	return slices.ContainsFunc(xattrs, func(a Xattr) bool { return a.Name == markLayer }), err
}

// blob enters the layer's blob i into the merged blobs.
func (m *merger) blob(l MergeLayer, i int) (uint32, error) {
	e, err := l.Bootstrap.blobEntry(i)
	if err != nil {
		return 0, err
	}
	off := l.Bootstrap.blobEntryOff(uint32(i))
	id := disk.CString(e.ID[:])
	own := l.ID != "" && e.Features&disk.BlobInlinedMeta != 0 && e.Features&disk.BlobSeparate == 0
	if id == PlaceholderID || own {
		id = l.ID
		if id == "" || len(id) > len(e.ID) {
			return 0, fmt.Errorf("blob id %q has no place in the blob table", id)
		}
		e.ID = [64]byte{}
		copy(e.ID[:], id)
	}
	if e.Features&disk.BlobInlinedMeta != 0 && e.Features&disk.BlobSeparate != 0 && l.Size > 0 {
		sum, err := hex.DecodeString(l.ID)
		if err != nil || len(sum) != len(e.MetaDigest) {
			return 0, fmt.Errorf("blob id %q is no digest by which readers find the chunk infos of %s", l.ID, id)
		}
		copy(e.MetaDigest[:], sum)
		e.MetaSize = uint64(l.Size)
	}
	e.Features &^= disk.BlobInlinedMeta
	k, found := m.byID[id]
	if !found {
		k = uint32(len(m.tree.blobs))
		m.byID[id] = k
		m.tree.blobs = append(m.tree.blobs, e)
	} else if m.tree.blobs[k] != e {
		return 0, corrupt("blob table", "", off, "blob %s differs from the one of that id in a lower layer", id)
	}
	return k, nil
}

// spend takes n bytes of the budget.
func (x *layerLoader) spend(n int64, i Inode) error {
	if x.budget -= n; x.budget < 0 {
		return corrupt("inode", "", x.b.off(i.Nid), "structures of inode %d overlap others", i.Nid)
	}
	return nil
}

// dir reads the entries of directory i into n.
func (x *layerLoader) dir(i Inode, n *node, depth int) error {
	if depth > maxDepth {
		return unsupported("directory", "", x.b.off(i.Nid), "nested deeper than %d", maxDepth)
	}
	var failed error
	err := x.b.Dirents(i, 0, func(_ int, d Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		failed = x.entry(i, n, d, depth)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

func (x *layerLoader) entry(dir Inode, n *node, d Dirent, depth int) error {
	file := x.files[d.Nid]
	taken := int64(disk.DirentSize + len(d.Name))
	if x.b.v5 != nil {
		taken = 0 // names are records, and spent with them
		if file != nil {
			taken = disk.V5InodeSize
		}
	}
	if err := x.spend(taken, dir); err != nil {
		return err
	}
	if file != nil {
		n.children[d.Name] = file
		return nil
	}
	i, err := x.b.Child(dir, d)
	if err != nil {
		return err
	}
	child, err := x.node(i)
	if err != nil {
		return err
	}
	n.children[d.Name] = child
	if child.isDir() {
		return x.dir(i, child, depth+1)
	}
	x.files[d.Nid] = child
	return nil
}

// node reads one inode, without the entries of a directory.
func (x *layerLoader) node(i Inode) (*node, error) {
	n := &node{mode: i.Mode, uid: i.UID, gid: i.GID, rdev: i.Rdev, mtime: i.Mtime, nsec: i.MtimeNsec}
	size := int64(i.head) + int64(i.xattr)
	if x.b.v5 != nil {
		size = i.v5.recordEnd(&i) - i.v5.off
	}
	err := x.spend(size, i)
	if err != nil {
		return nil, err
	}
	switch {
	case n.isDir():
		n.children = map[string]*node{}
	case n.isRegular():
		n.size = i.Size
		err = x.fileChunks(i, n)
	case n.isSymlink():
		if x.b.v5 == nil {
			err = x.spend(i.Size, i)
		}
		if err == nil {
			n.target, err = x.b.Readlink(i)
		}
	}
	if err != nil {
		return nil, err
	}
	return n, x.xattrs(i, n)
}

func (x *layerLoader) xattrs(i Inode, n *node) error {
	xattrs, err := x.b.Xattrs(i)
	if err != nil {
		return err
	}
	for _, a := range xattrs {
		switch {
		case a.Name == markImplicit && x.ours:
			n.implicit = n.isDir()
		case a.Name == markLower && x.ours && n.isRegular():
			if x.tree.lowers == nil {
				x.tree.lowers = map[string]*node{}
			}
			x.tree.lowers[string(a.Value)] = n
		case !hiddenXattr(a.Name):
			n.xattrs = append(n.xattrs, Xattr{Name: a.Name, Value: append([]byte(nil), a.Value...)})
		}
	}
	return nil
}

func (x *layerLoader) fileChunks(i Inode, n *node) error {
	count := x.b.chunkCount(&i)
	if x.b.v5 == nil {
		if err := x.spend(count*disk.ChunkIndexSize, i); err != nil {
			return err
		}
	}
	n.chunks = make([]uint32, 0, count)
	var failed error
	err := x.b.FileChunks(i, 0, i.Size, func(_ int64, c Chunk) bool {
		key := uint64(c.BlobIndex)<<32 | uint64(c.Index)
		k, found := x.chunks[key]
		if !found {
			k = uint32(len(x.merged.chunks))
			x.chunks[key] = k
			r := c.diskRecord()
			r.BlobIndex = x.blobs[c.BlobIndex]
			x.merged.chunks = append(x.merged.chunks, r)
		} else if r := &x.merged.chunks[k]; r.Digest != c.Digest || r.UncompressedSize != c.UncompressedSize {
			failed = corrupt("chunk", "", x.b.recordOff(c.record), "chunk %d of blob %d differs from another record of it", c.Index, c.BlobIndex)
			return false
		}
		n.chunks = append(n.chunks, k)
		return true
	})
	if failed != nil {
		return failed
	}
	return err
}
