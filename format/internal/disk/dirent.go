// SPDX-License-Identifier: Apache-2.0

package disk

// DirentSize is the size of Dirent in bytes.
const DirentSize = 12

// MaxName is the longest name of a directory entry in bytes.
const MaxName = 255

// File types of directory entries (EROFS on-disk format).
const (
	FileTypeRegular = 1
	FileTypeDir     = 2
	FileTypeChar    = 3
	FileTypeBlock   = 4
	FileTypeFIFO    = 5
	FileTypeSocket  = 6
	FileTypeSymlink = 7
)

// Dirent is one entry of a directory block. The block's entries come first,
// then their names without separators; the first NameOff tells the number of
// entries.
type Dirent struct {
	Nid      uint64
	NameOff  uint16 // in the block
	FileType uint8
}

// Decode fills d from b[:DirentSize].
func (d *Dirent) Decode(b []byte) {
	_ = b[DirentSize-1]
	d.Nid = le.Uint64(b[0:])
	d.NameOff = le.Uint16(b[8:])
	d.FileType = b[10]
}

// Append appends the DirentSize bytes of d to b.
func (d *Dirent) Append(b []byte) []byte {
	b = le.AppendUint64(b, d.Nid)
	b = le.AppendUint16(b, d.NameOff)
	return append(b, d.FileType, 0)
}
