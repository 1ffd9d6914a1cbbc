// SPDX-License-Identifier: Apache-2.0

// Package formattest helps to test what reads and writes Nydus images: listings
// of trees to compare, a corpus of layer tars, a plain model of how layers
// apply, and checks by other implementations (fsck.erofs, the Linux kernel,
// nydus-image, nydusd).
package formattest
