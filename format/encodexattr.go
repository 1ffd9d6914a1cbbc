// SPDX-License-Identifier: Apache-2.0

package format

import (
	"fmt"
	"strings"

	"lighter/format/internal/disk"
)

// maxXattrArea is the longest xattr area that an inode can count.
const maxXattrArea = disk.XattrHeaderSize + (1<<16-2)*disk.XattrAlign

// splitXattr splits a full name into the prefix that the format numbers and
// the rest. It reports false for names that the format cannot hold.
func splitXattr(name string) (index uint8, suffix string, ok bool) {
	for i, prefix := range disk.XattrPrefixes {
		if prefix == "" || !strings.HasPrefix(name, prefix) {
			continue
		}
		suffix = name[len(prefix):]
		whole := !strings.HasSuffix(prefix, ".")
		return uint8(i), suffix, whole == (suffix == "")
	}
	return 0, "", false
}

// xattrAreaSize returns the bytes that the attributes take behind an inode.
func xattrAreaSize(xattrs []Xattr) int64 {
	if len(xattrs) == 0 {
		return 0
	}
	size := int64(disk.XattrHeaderSize)
	for _, x := range xattrs {
		_, suffix, _ := splitXattr(x.Name)
		size += up(int64(disk.XattrEntrySize+len(suffix)+len(x.Value)), disk.XattrAlign)
	}
	return size
}

// xattrICount is the inode's field that tells the size of its xattr area.
func xattrICount(area int64) uint16 {
	if area == 0 {
		return 0
	}
	return uint16(1 + (area-disk.XattrHeaderSize)/disk.XattrAlign)
}

// checkXattrs reports attributes that the format cannot hold.
func checkXattrs(xattrs []Xattr) error {
	for _, x := range xattrs {
		_, suffix, ok := splitXattr(x.Name)
		switch {
		case !ok:
			return fmt.Errorf("xattr %q has no name or prefix that the format knows", x.Name)
		case len(suffix) > 255:
			return fmt.Errorf("xattr %.40q… has a name of %d bytes", x.Name, len(x.Name))
		case len(x.Value) > 1<<16-1:
			return fmt.Errorf("xattr %q has a value of %d bytes", x.Name, len(x.Value))
		}
	}
	if area := xattrAreaSize(xattrs); area > maxXattrArea {
		return fmt.Errorf("xattrs take %d bytes, more than %d", area, maxXattrArea)
	}
	return nil
}

// appendXattrs appends the xattr area. The attributes must be valid.
func appendXattrs(b []byte, xattrs []Xattr) []byte {
	if len(xattrs) == 0 {
		return b
	}
	b = (&disk.XattrHeader{}).Append(b)
	for _, x := range xattrs {
		index, suffix, _ := splitXattr(x.Name)
		e := disk.XattrEntry{NameLen: uint8(len(suffix)), NameIndex: index, ValueLen: uint16(len(x.Value))}
		b = e.Append(b)
		b = append(b, suffix...)
		b = append(b, x.Value...)
		for n := disk.XattrEntrySize + len(suffix) + len(x.Value); n%disk.XattrAlign != 0; n++ {
			b = append(b, 0)
		}
	}
	return b
}
