// SPDX-License-Identifier: Apache-2.0

// Package format reads and writes Nydus images: RAFS v6 and v5 bootstraps and
// the blobs that go with them. It knows of no network, cache, log or context.
//
// # The two artefacts
//
// A bootstrap has the metadata of one image or one layer. It is an EROFS
// image without data, with tables of RAFS behind its superblock:
//
//	0       1024         1152       1408           4096 …        meta
//	| zeros | superblock | extended | device slots | blob table  | inode area … | chunk table |
//	                       superblock                prefetch table
//
// An inode is found by its number: nid × 32 bytes behind meta. Behind the
// inode lie its attributes, and then the tail of a directory or link target,
// or a regular file's chunk indexes: (blob, chunk number, block) for each
// chunk_size bytes of the file. The chunk table has one record for each chunk
// that the image uses: digest, sizes, and where it is in its blob.
//
// A bootstrap of RAFS v5 is no EROFS image. Inodes are numbered, and found
// through a table; directories name their children by number, and files have
// their chunk records behind the inode:
//
//	0            8192
//	| superblock | inode table | prefetch table | blob table | extended blob table | inodes … |
//
// A blob has the chunks of one layer, and behind them a table of its own. A
// layer blob has the layer's bootstrap, too, each part followed by a tar
// header that names it:
//
//	| chunks | H | chunk infos | header | H | digests | H | bootstrap | H | table of contents | H |
//
// With RAFS v5 there are only chunks and bootstrap:
//
//	| chunks | H | bootstrap | H |
//
// # Terms
//
//   - chunk: a piece of a file's content, at most chunk_size bytes; the unit of
//     deduplication and verification
//   - unit: what is compressed as one: a chunk as a rule, or a batch of small
//     chunks, or a piece of a gzip archive (zran); an Extent tells where it is
//   - blob: the object that has chunks; its id is as a rule the SHA-256 of its bytes
//   - uncompressed address space: chunks of a blob at multiples of 4096, as a
//     block device for EROFS would have them
//   - nid, ino: an inode's place in the bootstrap, and its number in the
//     builder's walk; users see the nid as inode number. In RAFS v5 both are the
//     number of the inode's first name in the inode table
//
// # Reading
//
// Open checks what everything else rests on, and reads nothing more than
// superblock and blob table. Each later access checks what it touches: so
// opening takes no time however large the image is, and no byte of a lying
// image is believed. Errors are an *Error that wraps ErrCorrupt or
// ErrUnsupported, or come from the reader. Check looks at everything at once,
// and finds what single accesses cannot: a directory with two names, for
// example, which would make a walk exponential.
//
// Content is never shown unverified: Verify compares a chunk with the digest
// that the bootstrap has. Whether the bootstrap itself is the right one is
// the caller's matter: by the digest of the layer that brought it.
//
// Not read: tarfs images, external blobs, references to eStargz layers.
//
// # Writing
//
// BuildLayer makes a layer blob of a layer tar in one pass. A ChunkDict spares
// it the chunks that other images have. Whiteouts stay
// files, so that the blob means the same as the tar. Merge puts the bootstraps
// of layers over each other as overlayfs would show them:
//
//   - what a layer lists replaces what is below; a directory over a directory
//     keeps the entries of both
//   - a directory that a layer does not list, but that its files need, keeps
//     the attributes that layers below gave it; likewise the root
//   - link counts are those of the names that are left
//   - a hard link to a file that only a lower layer has is made when merging,
//     and copies that file up
//
// For this the bootstrap of a layer has marks, in
// attributes below trusted.lighter., and the volume name "lighter layer" (in
// RAFS v5, the root's attribute trusted.lighter.layer) that says so. Merge drops them. Bootstraps of other builders have none: there a
// root with mode 0755, owner 0:0, time 0 and no attributes counts as not listed.
//
// # Sources
//
// The EROFS on-disk format is that of the Linux kernel's documentation
// (Documentation/filesystems/erofs.rst); RAFS v6, the blob and its tables are
// those of the Nydus image service, as its builder writes them.
package format
