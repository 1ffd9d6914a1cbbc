// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"lighter/format/internal/disk"
)

// MergeLayer is one layer of an image.
type MergeLayer struct {
	// ID is the id of the layer's blob, hex. It replaces the placeholder in
	// the layer's bootstrap. Empty: the bootstrap is a merged one, whose table
	// names its blobs.
	ID string
	// Bootstrap is the layer's own bootstrap, or that of an image to build on.
	Bootstrap *Bootstrap
	// Size is the number of bytes of the layer's blob. It is needed where the
	// data lies elsewhere (BuildReference): readers then find the chunk infos
	// by ID and Size.
	Size int64
}

// MergeOptions tells how an image's bootstrap is written.
type MergeOptions struct {
	// Prefetch names files and directories that a reader may fetch ahead, as
	// paths from the root. Those that the image does not have are left out.
	Prefetch []string
}

// Merged is what Merge wrote.
type Merged struct {
	Blobs  []string // ids of the blob table, in its order
	Size   int64    // bytes written
	Inodes uint64   // tree entries, each name of a hard link counted
}

// Merge applies layers, the lowest first, as overlayfs shows them, and writes
// the bootstrap of the image to w. Whiteouts and opaque marks (OCI image
// layer specification) remove what lower layers have and vanish themselves.
// Blobs that no file uses any more are not listed. All layers must have the
// same chunk size. The same layers give the same bytes.
func Merge(w io.Writer, layers []MergeLayer, o MergeOptions) (*Merged, error) {
	m := &merger{tree: newTree(DefaultChunkSize), byID: map[string]uint32{}}
	m.flags = compressorFlag(Zstd) | digesterFlag(Blake3)
	for i, l := range layers {
		if err := m.add(l, i == 0); err != nil {
			return nil, fmt.Errorf("merge layer %d (%s): %w", i, l.ID, err)
		}
	}
	blobs := m.reindex()
	e := encoding{version: m.version, flags: m.flags | disk.FlagExplicitOwner | disk.FlagHasXattr, prefetch: o.Prefetch}
	b, err := m.tree.encode(e)
	if err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	if err := checkTables(b); err != nil {
		return nil, fmt.Errorf("merge: layers that contradict themselves: %w", err)
	}
	n, err := w.Write(b)
	if err != nil {
		return nil, fmt.Errorf("write merged bootstrap: %w", err)
	}
	return &Merged{Blobs: blobs, Size: int64(n), Inodes: m.tree.inos}, nil
}

// merger is the state of one Merge call. Its tree is the image so far.
type merger struct {
	tree    *tree
	byID    map[string]uint32 // blob id → index of tree.blobs
	flags   uint64            // compressor and digester of the last layer
	version int               // of RAFS
}

func (m *merger) add(l MergeLayer, first bool) error {
	info := l.Bootstrap.Info()
	switch {
	case first:
		m.tree.chunkSize, m.version = info.ChunkSize, info.Version
	case m.version != info.Version:
		return fmt.Errorf("RAFS v%d, not v%d as the layers below", info.Version, m.version)
	case m.tree.chunkSize != info.ChunkSize:
		return fmt.Errorf("chunk size is %d, not %d as in the layers below", info.ChunkSize, m.tree.chunkSize)
	}
	if info.Flags&disk.FlagExplicitOwner == 0 {
		return unsupported("extended superblock", "flags", disk.ExtSuperblockOff, "%#x: owners are not explicit", info.Flags)
	}
	if err := m.setFlags(info, first); err != nil {
		return err
	}
	upper, err := m.load(l)
	if err != nil {
		return err
	}
	for _, target := range slices.Sorted(maps.Keys(upper.lowers)) {
		if err := m.link(target, upper.lowers[target]); err != nil {
			return err
		}
	}
	if !upper.root.implicit {
		m.tree.root.replace(upper.root)
	}
	m.tree.root.apply(upper.root)
	return nil
}

// setFlags notes compressor and digester of a layer. In RAFS v6 each blob has
// its own; in v5 there is one of each for all, but chunks may be stored as they
// are.
func (m *merger) setFlags(info Info, first bool) error {
	flags := compressorFlag(info.Compressor) | digesterFlag(info.Digester)
	if first || m.version != 5 {
		m.flags = flags
		return nil
	}
	below := Info{Compressor: flagsCompressor(m.flags), Digester: flagsDigester(m.flags)}
	switch {
	case below.Digester != info.Digester:
		return fmt.Errorf("digester is %s, not %s as in the layers below", info.Digester, below.Digester)
	case below.Compressor == None:
		m.flags = flags
	case info.Compressor != None && info.Compressor != below.Compressor:
		return fmt.Errorf("compressor is %s, not %s as in the layers below: RAFS v5 has one for all", info.Compressor, below.Compressor)
	}
	return nil
}

// link lets the stand-in n of a hard link be the file at target, which takes
// the attributes of the link: one more name for one inode, as where all layers
// are unpacked into one directory.
func (m *merger) link(target string, n *node) error {
	dirName, base := path.Split(target)
	dir, err := m.tree.dir(dirName, false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	var file *node
	if dir != nil {
		file = dir.children[base]
	}
	if file == nil {
		return fmt.Errorf("hard link to %q: no layer has this file", target)
	}
	if file.isDir() {
		return fmt.Errorf("hard link to %q: it is a directory", target)
	}
	file.update(n)
	n.same = file
	return nil
}

// apply puts the entries of a directory of an upper layer over n.
func (n *node) apply(upper *node) {
	for name := range upper.children {
		if name == opaqueName {
			clear(n.children)
		} else if removed, ok := whiteout(name); ok {
			delete(n.children, removed)
		}
	}
	for name, over := range upper.children {
		if _, ok := whiteout(name); ok {
			continue
		}
		if over.same != nil {
			over = over.same
		}
		old := n.children[name]
		switch {
		case over.mode&ModeType == ModeChar && over.rdev == 0:
			// To overlayfs this device is a whiteout, whoever made it.
			delete(n.children, name)
		case !over.isDir():
			n.children[name] = over
		case old != nil && old.isDir():
			if !over.implicit {
				old.replace(over)
			}
			old.apply(over)
		default:
			dir := newDir(0)
			dir.replace(over)
			dir.apply(over)
			n.children[name] = dir
		}
	}
}

// replace takes over all attributes of a directory.
func (n *node) replace(over *node) {
	children := n.children
	*n = *over
	n.children = children
}

// reindex brings the blobs into the order in which a walk first meets them,
// drops the others and returns the ids.
func (m *merger) reindex() []string {
	t := m.tree
	t.sortEntries()
	order := make([]int, len(t.blobs)) // new index + 1
	var blobs []disk.BlobEntry
	var ids []string
	t.walk(func(n *node) {
		for _, c := range n.chunks {
			if i := t.chunks[c].BlobIndex; order[i] == 0 {
				blobs = append(blobs, t.blobs[i])
				order[i] = len(blobs)
				ids = append(ids, disk.CString(t.blobs[i].ID[:]))
			}
		}
	})
	for i := range t.chunks {
		if k := order[t.chunks[i].BlobIndex]; k > 0 {
			t.chunks[i].BlobIndex = uint32(k - 1)
		}
	}
	t.blobs = blobs
	return ids
}
