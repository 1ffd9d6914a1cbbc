// SPDX-License-Identifier: Apache-2.0

package fusefs

import "github.com/hanwen/go-fuse/v2/fuse"

// unopened answers ENOSYS to every request. To OPEN, OPENDIR, FLUSH and ACCESS
// that means success for good: the kernel stops asking, keeps the pages of a
// file from one open to the next (FOPEN_KEEP_CACHE), and those of a directory
// (FOPEN_CACHE_DIR). Without handles there is nothing that a server could lose.
type unopened struct{ fuse.RawFileSystem }

func newUnopened() unopened { return unopened{fuse.NewDefaultRawFileSystem()} }

func (unopened) String() string { return "lighter" }

// The default for these two is success with a handle.

func (unopened) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

func (unopened) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }
