// SPDX-License-Identifier: Apache-2.0

package disk

// Sizes of the xattr area's header and of an entry's header, in bytes. Each
// entry, name and value included, is padded with zeros to XattrAlign.
const (
	XattrHeaderSize = 12
	XattrEntrySize  = 4
	XattrAlign      = 4
)

// Prefix indexes of xattr names (EROFS on-disk format). For the two ACLs the
// index stands for the whole name.
const (
	XattrUser       = 1
	XattrACLAccess  = 2
	XattrACLDefault = 3
	XattrTrusted    = 4
	XattrSecurity   = 6
)

// XattrHeader begins the xattr area of an inode.
type XattrHeader struct {
	NameFilter  uint32 // 0
	SharedCount uint8  // 0: RAFS v6 has no shared xattrs
}

// Decode fills h from b[:XattrHeaderSize].
func (h *XattrHeader) Decode(b []byte) {
	_ = b[XattrHeaderSize-1]
	h.NameFilter = le.Uint32(b[0:])
	h.SharedCount = b[4]
}

// Append appends the XattrHeaderSize bytes of h to b.
func (h *XattrHeader) Append(b []byte) []byte {
	b = le.AppendUint32(b, h.NameFilter)
	return zeros(append(b, h.SharedCount), 7)
}

// XattrEntry is the head of one xattr; the name's suffix and the value follow.
type XattrEntry struct {
	NameLen   uint8 // of the suffix
	NameIndex uint8
	ValueLen  uint16
}

// Decode fills e from b[:XattrEntrySize].
func (e *XattrEntry) Decode(b []byte) {
	_ = b[XattrEntrySize-1]
	e.NameLen = b[0]
	e.NameIndex = b[1]
	e.ValueLen = le.Uint16(b[2:])
}

// Append appends the XattrEntrySize bytes of e to b.
func (e *XattrEntry) Append(b []byte) []byte {
	b = append(b, e.NameLen, e.NameIndex)
	return le.AppendUint16(b, e.ValueLen)
}

// XattrPrefixes maps a prefix index to the name's beginning, or for the ACLs
// to the whole name. Indexes not in the table are unknown.
var XattrPrefixes = [...]string{
	XattrUser:       "user.",
	XattrACLAccess:  "system.posix_acl_access",
	XattrACLDefault: "system.posix_acl_default",
	XattrTrusted:    "trusted.",
	XattrSecurity:   "security.",
}
