// SPDX-License-Identifier: Apache-2.0

// Package fusefs presents an image as a FUSE file system whose server can be
// killed at any moment and replaced by another process.
//
// Two halves, independent of each other:
//
//   - New makes an image a [fuse.RawFileSystem] that keeps no state: node ids
//     follow from the image's inode numbers, opens are refused once with ENOSYS
//     so that the kernel stops asking, directory offsets follow from the image, and
//     forget does nothing. Whatever one process answered, the next one answers
//     alike.
//   - Serve answers the requests of a connection that somebody else opened,
//     mounted and keeps (package keeper). Each thread reads its request into
//     its own slot of memory shared with the keeper. A process that takes over
//     finds there the requests that its predecessor had read and not answered,
//     and answers those first. The kernel's own FUSE_NOTIFY_RESEND (Linux 6.9)
//     is not needed beside that.
//
// The process that serves must never touch its own mount: while it waits for
// itself, nobody is left to answer, and SIGKILL cannot end the wait.
//
// Sources: the kernel's FUSE protocol 7.31 and later (uapi/linux/fuse.h).
package fusefs
