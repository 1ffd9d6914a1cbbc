// SPDX-License-Identifier: Apache-2.0

package format

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"lighter/format/internal/disk"
)

// blobCipher decrypts what a blob stores: AES-128 in XTS mode (IEEE 1619) with
// ciphertext stealing, each unit with the same tweak. The key is in the blob
// table, so this hides nothing from who has the bootstrap.
type blobCipher struct {
	key [2 * aes128]byte // of the data, then of the tweak
	iv  [aes.BlockSize]byte
}

const aes128 = 16 // bytes of a key

// Units shorter than a block are filled up with bytes that tell how many they
// are, and marked by two bytes behind the block.
const (
	shortUnit     = aes.BlockSize + 2
	shortUnitMark = "\x78\x90"
)

func newBlobCipher(e *disk.BlobEntry) *blobCipher {
	c := &blobCipher{key: e.MetaDigest}
	le.PutUint64(c.iv[:], e.MetaSize)
	le.PutUint64(c.iv[8:], e.CipherIV)
	return c
}

// decrypt returns the plain bytes of a stored unit. That a unit of eighteen
// bytes is a filled one is told by its end alone; see decodeEncrypted.
func (c *blobCipher) decrypt(stored []byte) ([]byte, error) {
	if len(stored) < aes.BlockSize {
		return nil, fmt.Errorf("encrypted unit of %d bytes, less than %d", len(stored), aes.BlockSize)
	}
	data, err := aes.NewCipher(c.key[:aes128])
	if err != nil {
		return nil, err
	}
	tweaks, err := aes.NewCipher(c.key[aes128:])
	if err != nil {
		return nil, err
	}
	var tweak [aes.BlockSize]byte
	tweaks.Encrypt(tweak[:], c.iv[:])
	plain := make([]byte, len(stored))
	whole, rest := len(stored)/aes.BlockSize, len(stored)%aes.BlockSize
	if rest > 0 {
		whole--
	}
	for k := range whole {
		xtsBlock(data, &tweak, plain[k*aes.BlockSize:], stored[k*aes.BlockSize:])
		nextTweak(&tweak)
	}
	if rest > 0 {
		// The last whole block used the tweak after next, and lent its end to
		// the short one.
		at := whole * aes.BlockSize
		last := tweak
		nextTweak(&last)
		var block [aes.BlockSize]byte
		xtsBlock(data, &last, block[:], stored[at:])
		copy(plain[at+aes.BlockSize:], block[:rest])
		copy(block[:], stored[at+aes.BlockSize:])
		xtsBlock(data, &tweak, plain[at:], block[:])
	}
	return plain, nil
}

// xtsBlock decrypts one block.
func xtsBlock(b cipher.Block, tweak *[aes.BlockSize]byte, dst, src []byte) {
	var x [aes.BlockSize]byte
	for k := range x {
		x[k] = src[k] ^ tweak[k]
	}
	b.Decrypt(x[:], x[:])
	for k := range x {
		dst[k] = x[k] ^ tweak[k]
	}
}

// nextTweak multiplies by x in GF(2^128).
func nextTweak(t *[aes.BlockSize]byte) {
	carry := byte(0)
	for k := range t {
		next := t[k] >> 7
		t[k] = t[k]<<1 | carry
		carry = next
	}
	t[0] ^= carry * 0x87
}

// decodeEncrypted decrypts a stored unit and inflates it into dst. codec may be
// None.
func (c *blobCipher) decodeEncrypted(dst, stored []byte, codec Compressor) error {
	plain, err := c.decrypt(stored)
	if err != nil {
		return err
	}
	if len(plain) == shortUnit && string(plain[aes.BlockSize:]) == shortUnitMark {
		if n := int(plain[aes.BlockSize-1]); n > 0 && n < aes.BlockSize && codec.decode(dst, plain[:aes.BlockSize-n]) == nil {
			return nil
		}
	}
	return codec.decode(dst, plain)
}
