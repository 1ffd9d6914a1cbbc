// SPDX-License-Identifier: Apache-2.0

// Package keeper holds what must outlive the process that serves file systems:
// the FUSE descriptors, the memory that requests in flight lie in, and the
// listening sockets. A crash of the serving process, the worker, is then a
// pause for whoever reads, not an error.
//
// The keeper ([Run]) is the first process. It starts the worker and, when that
// dies, another one. Both talk over a SOCK_SEQPACKET pair: one JSON object is
// one packet, descriptors ride along. The worker ([Connect]) receives all that
// is kept, asks for mounts and unmounts, and serves; it never touches a mount,
// which is why the keeper makes and removes them, and lets a third process, the
// prober, find out whether a mount can be read.
//
// [NewLocal] gives the same calls inside one process, without the survival.
//
// The keeper does not serve, and knows nothing of images: what a worker needs
// to know about a mount to serve it, it stores with the mount (Meta).
package keeper
