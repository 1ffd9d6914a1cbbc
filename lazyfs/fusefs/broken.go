// SPDX-License-Identifier: Apache-2.0

package fusefs

import "github.com/hanwen/go-fuse/v2/fuse"

// Broken returns a file system that answers EIO to everything: for a mount
// whose image cannot be opened any more, but whose users must not wait.
func Broken() fuse.RawFileSystem {
	return broken{newUnopened()}
}

type broken struct{ unopened }

func (broken) Lookup(<-chan struct{}, *fuse.InHeader, string, *fuse.EntryOut) fuse.Status {
	return fuse.EIO
}

func (broken) GetAttr(<-chan struct{}, *fuse.GetAttrIn, *fuse.AttrOut) fuse.Status { return fuse.EIO }

func (broken) Readlink(<-chan struct{}, *fuse.InHeader) ([]byte, fuse.Status) { return nil, fuse.EIO }

func (broken) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.EIO
}

func (broken) ListXAttr(<-chan struct{}, *fuse.InHeader, []byte) (uint32, fuse.Status) {
	return 0, fuse.EIO
}

func (broken) Read(<-chan struct{}, *fuse.ReadIn, []byte) (fuse.ReadResult, fuse.Status) {
	return nil, fuse.EIO
}

func (broken) ReadDir(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status { return fuse.EIO }

func (broken) ReadDirPlus(<-chan struct{}, *fuse.ReadIn, *fuse.DirEntryList) fuse.Status {
	return fuse.EIO
}

func (broken) StatFs(<-chan struct{}, *fuse.InHeader, *fuse.StatfsOut) fuse.Status { return fuse.EIO }
