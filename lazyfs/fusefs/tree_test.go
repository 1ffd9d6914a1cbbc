// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"lighter/format"
)

// image is a bootstrap whose files all hold the same byte, unless reading fails.
type image struct {
	b     *format.Bootstrap
	err   error
	short int // bytes that are missing from each read
}

func (im *image) Bootstrap() *format.Bootstrap { return im.b }

func (im *image) ReadAt(_ context.Context, _ format.Inode, p []byte, _ int64) (int, error) {
	if im.err != nil {
		return 0, im.err
	}
	for i := range p {
		p[i] = 'x'
	}
	return len(p) - im.short, nil
}

// goldenImage opens a bootstrap of the golden images.
func goldenImage(t *testing.T) *image {
	t.Helper()
	root := os.Getenv("LIGHTER_GOLDEN")
	if root == "" {
		root = "../../../shared/golden"
	}
	data, err := os.ReadFile(filepath.Join(root, "dir-v6-zstd", "bootstrap"))
	if err != nil {
		t.Fatalf("golden images: %v (LIGHTER_GOLDEN names their directory)", err)
	}
	b, err := format.OpenBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	return &image{b: b}
}

func newTree(t *testing.T, im *image) *tree {
	t.Helper()
	return New(im, Options{}).(*tree)
}

func TestNodeIDs(t *testing.T) {
	tr := newTree(t, goldenImage(t))
	for _, root := range []uint64{0, 1, 128, 1 << 40} {
		tr.root = root
		seen := map[uint64]bool{0: true} // means "no such file"
		for _, nid := range []uint64{0, 1, 2, 3, 127, 128, 129, 130, 1<<40 - 1, 1 << 40, 1<<40 + 1} {
			node := tr.node(nid)
			if seen[node] {
				t.Errorf("root %d: nid %d has node id %d, which is taken", root, nid, node)
			}
			seen[node] = true
			if got := tr.nid(node); got != nid {
				t.Errorf("root %d: node id %d of nid %d leads to nid %d", root, node, nid, got)
			}
		}
		if tr.node(root) != fuse.FUSE_ROOT_ID {
			t.Errorf("root %d has node id %d", root, tr.node(root))
		}
	}
}

func TestUnknownNodes(t *testing.T) {
	tr := newTree(t, goldenImage(t))
	for _, node := range []uint64{0, 2, 1 << 32, 1<<64 - 1, 1 << 63} {
		h := fuse.InHeader{NodeId: node}
		var attr fuse.AttrOut
		if st := tr.GetAttr(nil, &fuse.GetAttrIn{InHeader: h}, &attr); st != fuse.EIO {
			t.Errorf("attributes of node %d: %v, want EIO", node, st)
		}
		var entry fuse.EntryOut
		if st := tr.Lookup(nil, &h, "x", &entry); st != fuse.EIO {
			t.Errorf("lookup in node %d: %v, want EIO", node, st)
		}
		if _, st := tr.Read(nil, &fuse.ReadIn{InHeader: h, Size: 10}, make([]byte, 10)); st.Ok() {
			t.Errorf("read of node %d: %v", node, st)
		}
	}
}

// find returns the node id of a path.
func find(t *testing.T, tr *tree, path string) uint64 {
	t.Helper()
	ino, err := tr.b.LookupPath(path)
	if err != nil {
		t.Fatal(err)
	}
	return tr.node(ino.Nid)
}

// firstFile returns a regular file of at least n bytes.
func firstFile(t *testing.T, tr *tree, n int64) (node uint64, ino format.Inode) {
	t.Helper()
	dir, err := tr.b.LookupPath("/sizes")
	if err != nil {
		t.Fatal(err)
	}
	err = tr.b.Dirents(dir, 0, func(_ int, d format.Dirent) bool {
		i, err := tr.b.Inode(d.Nid)
		if err == nil && i.Mode&unix.S_IFMT == unix.S_IFREG && i.Size >= n {
			node, ino = tr.node(d.Nid), i
			return false
		}
		return true
	})
	if err != nil || node == 0 {
		t.Fatalf("no file of %d bytes: %v", n, err)
	}
	return node, ino
}

func read(tr *tree, node uint64, off, size int) ([]byte, fuse.Status) {
	res, st := tr.Read(nil, &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: node}, Offset: uint64(off), Size: uint32(size)}, make([]byte, size))
	if !st.Ok() {
		return nil, st
	}
	defer res.Done()
	return res.Bytes(make([]byte, size))
}

func TestReadIsAllOrNothing(t *testing.T) {
	im := goldenImage(t)
	tr := newTree(t, im)
	node, ino := firstFile(t, tr, 8192)
	for _, c := range []struct{ off, size, want int }{
		{0, 100, 100}, {0, 1 << 20, int(ino.Size)}, {int(ino.Size) - 5, 100, 5}, {int(ino.Size), 100, 0}, {int(ino.Size) + 1, 100, 0},
	} {
		b, st := read(tr, node, c.off, c.size)
		if want := min(c.want, c.size); !st.Ok() || len(b) != want || len(bytes.Trim(b, "x")) != 0 {
			t.Errorf("read %d at %d: %d bytes, %v, want %d", c.size, c.off, len(b), st, want)
		}
	}
	if b, st := read(tr, node, 1<<62, 10); !st.Ok() || len(b) != 0 {
		t.Errorf("read far behind the end: %d bytes, %v", len(b), st)
	}
	for name, fault := range map[string]image{
		"error":      {err: errors.New("no")},
		"corrupt":    {err: format.ErrCorrupt},
		"timeout":    {err: context.DeadlineExceeded},
		"not found":  {err: os.ErrNotExist},
		"early end":  {err: io.EOF},
		"short read": {short: 1}, // the kernel would take it for the file's end
	} {
		im.err, im.short = fault.err, fault.short
		if b, st := read(tr, node, 0, 4096); st != fuse.EIO || len(b) != 0 {
			t.Errorf("%s: %d bytes, %v, want EIO", name, len(b), st)
		}
	}
}

func TestWrongKinds(t *testing.T) {
	tr := newTree(t, goldenImage(t))
	file, _ := firstFile(t, tr, 1)
	dir := find(t, tr, "/sizes")
	if _, st := read(tr, dir, 0, 10); st != fuse.EINVAL {
		t.Errorf("read of a directory: %v", st)
	}
	if _, st := tr.Readlink(nil, &fuse.InHeader{NodeId: file}); st != fuse.EINVAL {
		t.Errorf("readlink of a file: %v", st)
	}
	var entry fuse.EntryOut
	if st := tr.Lookup(nil, &fuse.InHeader{NodeId: file}, "x", &entry); st != fuse.ENOTDIR {
		t.Errorf("lookup in a file: %v", st)
	}
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: file}}
	if st := tr.ReadDir(nil, in, fuse.NewDirEntryList(make([]byte, 4096), 0)); st != fuse.ENOTDIR {
		t.Errorf("list of a file: %v", st)
	}
	in.NodeId = dir
	for _, off := range []uint64{1 << 40, 1<<62 - 1, 1 << 63, 1<<64 - 1} {
		in.Offset = off
		list := fuse.NewDirEntryList(make([]byte, 4096), off)
		if tr.ReadDir(nil, in, list); len(list.Bytes()) != 0 {
			t.Errorf("list from %d: %d bytes", off, len(list.Bytes()))
		}
	}
}

func TestAbsentNamesAreCached(t *testing.T) {
	tr := newTree(t, goldenImage(t))
	var out fuse.EntryOut
	if st := tr.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, "absent", &out); !st.Ok() || out.NodeId != 0 || out.EntryValid != forever {
		t.Errorf("lookup: %v, %+v", st, out)
	}
	if st := tr.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, string(make([]byte, 256)), &out); st != fuse.Status(unix.ENAMETOOLONG) {
		t.Errorf("lookup of 256 bytes: %v", st)
	}
}

// TestNoState: two servers of one image give the same answers, whatever one was
// asked before.
func TestNoState(t *testing.T) {
	a, b := newTree(t, goldenImage(t)), newTree(t, goldenImage(t))
	in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: find(t, a, "/")}}
	for range 100 {
		la, lb := fuse.NewDirEntryList(make([]byte, 700), in.Offset), fuse.NewDirEntryList(make([]byte, 700), in.Offset)
		if st := a.ReadDirPlus(nil, in, la); !st.Ok() {
			t.Fatal(st)
		}
		if in.Offset%2 == 0 { // a is asked about everything, b is not
			a.Forget(in.NodeId, 1)
		}
		if st := b.ReadDirPlus(nil, in, lb); !st.Ok() || !bytes.Equal(la.Bytes(), lb.Bytes()) {
			t.Fatalf("from %d: answers differ (%v)", in.Offset, st)
		}
		if la.Offset == in.Offset {
			return
		}
		in.Offset = la.Offset
	}
	t.Error("the listing does not end")
}
