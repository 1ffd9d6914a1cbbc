// SPDX-License-Identifier: Apache-2.0

package fusefs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// overlayPrefix begins the attributes that overlayfs obeys in a lower layer. An
// image must not give it orders: they are neither listed nor found.
const overlayPrefix = "trusted.overlay."

// GetXAttr implements GETXATTR.
func (t *tree) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if strings.HasPrefix(name, overlayPrefix) {
		return 0, fuse.ENOATTR
	}
	ino, status := t.inode("getxattr", h.NodeId)
	if !status.Ok() {
		return 0, status
	}
	xattrs, err := t.b.Xattrs(ino)
	if err != nil {
		return 0, t.damage("getxattr", h.NodeId, err)
	}
	for _, x := range xattrs {
		if x.Name == name {
			if len(dest) < len(x.Value) {
				return uint32(len(x.Value)), fuse.ERANGE
			}
			return uint32(copy(dest, x.Value)), fuse.OK
		}
	}
	return 0, fuse.ENOATTR
}

// ListXAttr implements LISTXATTR.
func (t *tree) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	ino, status := t.inode("listxattr", h.NodeId)
	if !status.Ok() {
		return 0, status
	}
	xattrs, err := t.b.Xattrs(ino)
	if err != nil {
		return 0, t.damage("listxattr", h.NodeId, err)
	}
	size := 0
	for _, x := range xattrs {
		if strings.HasPrefix(x.Name, overlayPrefix) {
			continue
		}
		if end := size + len(x.Name) + 1; end <= len(dest) {
			copy(dest[size:], x.Name)
			dest[end-1] = 0
		}
		size += len(x.Name) + 1
	}
	if size > len(dest) {
		return uint32(size), fuse.ERANGE
	}
	return uint32(size), fuse.OK
}
