// SPDX-License-Identifier: Apache-2.0

// Package backend gives random access to the blobs of images where they are
// stored: in an OCI registry, or in a local directory.
//
// Every store is an [Opener]; what it opens is a [Blob]: ranged reads with a
// context, and a size in bytes. Blobs are named by the SHA-256 of their bytes in
// lower case hex, with or without "sha256:" before it. The bytes that a store
// gives are not verified here: who reads them has the digests of the chunks.
//
// A read either fills its buffer or fails. Whatever can pass by itself (lost
// connections, short bodies, stalled servers, 5xx, 429, expired tokens, expired
// locations of a redirect) is tried again until the context ends, from the byte
// where it broke. Two classes of errors are final and can be asked for with
// errors.Is: [fs.ErrNotExist], the store surely does not have the blob, and
// [fs.ErrPermission], it refused freshly obtained credentials.
//
// Errors and logs name host, repository and blob, and never hold credentials,
// tokens, or the query of a URL (which may be a signature).
//
// All types are safe for concurrent use.
//
// Sources: OCI distribution specification (pull: blobs, ranges, error codes),
// Docker token authentication (bearer challenge, token and OAuth2 requests), RFC
// 9110 (ranges, Retry-After, authentication), Docker's config.json and
// credential helper protocol, Docker's certs.d directory.
package backend
