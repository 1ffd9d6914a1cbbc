// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"lighter/format/internal/disk"
)

// Xattr is one extended attribute.
type Xattr struct {
	Name  string // with its namespace, such as "user.mime_type"
	Value []byte // the caller must not change it
}

// hiddenXattrs begins the names of attributes that overlayfs would obey on a
// layer: those of an image are never shown.
const hiddenXattrs = "trusted.overlay."

// HasXattrs reports whether Xattrs may return any; it reads nothing.
func (i Inode) HasXattrs() bool {
	return i.xattr > disk.XattrHeaderSize || i.v5.xattrs && i.xattr > 0
}

// Xattrs returns the inode's attributes, sorted by name. Those with an
// unknown prefix index and trusted.overlay.* are left out.
func (b *Bootstrap) Xattrs(i Inode) ([]Xattr, error) {
	if i.xattr == 0 {
		return nil, nil
	}
	if b.v5 != nil {
		return b.xattrsV5(&i)
	}
	off := b.off(i.Nid) + int64(i.head)
	p, err := b.view("xattr area", off, int64(i.xattr))
	if err != nil {
		return nil, err
	}
	return parseXattrs(p, off)
}

// parseXattrs reads an xattr area, which lies at off in the bootstrap
// (EROFS on-disk format).
func parseXattrs(p []byte, off int64) ([]Xattr, error) {
	if len(p) < disk.XattrHeaderSize {
		return nil, corrupt("xattr area", "", off, "%d bytes are too short", len(p))
	}
	var h disk.XattrHeader
	h.Decode(p)
	if h.SharedCount != 0 {
		return nil, unsupported("xattr area", "h_shared_count", off+4, "%d shared xattrs", h.SharedCount)
	}
	var all []Xattr
	for at := disk.XattrHeaderSize; at < len(p); {
		x, n, err := parseXattr(p[at:], off+int64(at))
		if err != nil {
			return nil, err
		}
		if x.Name != "" && !strings.HasPrefix(x.Name, hiddenXattrs) {
			all = append(all, x)
		}
		at += n
	}
	slices.SortFunc(all, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	for k := 1; k < len(all); k++ {
		if all[k].Name == all[k-1].Name {
			return nil, corrupt("xattr area", "e_name", off, "%q occurs twice", all[k].Name)
		}
	}
	return all, nil
}

// parseXattr reads the entry at the beginning of p and returns the bytes that
// it takes. An unknown prefix gives an empty name.
func parseXattr(p []byte, off int64) (Xattr, int, error) {
	if len(p) < disk.XattrEntrySize {
		return Xattr{}, 0, corrupt("xattr entry", "", off, "%d bytes are left", len(p))
	}
	var e disk.XattrEntry
	e.Decode(p)
	nameEnd := disk.XattrEntrySize + int(e.NameLen)
	end := nameEnd + int(e.ValueLen)
	if end > len(p) {
		return Xattr{}, 0, corrupt("xattr entry", "e_value_size", off, "name of %d and value of %d bytes in %d bytes",
			e.NameLen, e.ValueLen, len(p))
	}
	next := min((end+disk.XattrAlign-1)&^(disk.XattrAlign-1), len(p))
	if int(e.NameIndex) >= len(disk.XattrPrefixes) || disk.XattrPrefixes[e.NameIndex] == "" {
		return Xattr{}, next, nil
	}
	suffix := p[disk.XattrEntrySize:nameEnd]
	whole := e.NameIndex == disk.XattrACLAccess || e.NameIndex == disk.XattrACLDefault
	if whole != (len(suffix) == 0) || bytes.IndexByte(suffix, 0) >= 0 {
		return Xattr{}, 0, corrupt("xattr entry", "e_name", off, "prefix %d with suffix %q", e.NameIndex, suffix)
	}
	return Xattr{Name: disk.XattrPrefixes[e.NameIndex] + string(suffix), Value: p[nameEnd:end:end]}, next, nil
}
