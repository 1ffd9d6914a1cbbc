// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"lighter/format/internal/disk"
)

// encrypt is the inverse of decrypt and of the filling of short units.
func (c *blobCipher) encrypt(plain []byte) []byte {
	if n := aes.BlockSize - len(plain); n > 0 {
		plain = append(bytes.Clone(plain), bytes.Repeat([]byte{byte(n)}, n)...)
		plain = append(plain, shortUnitMark...)
	}
	data, _ := aes.NewCipher(c.key[:aes128])
	tweaks, _ := aes.NewCipher(c.key[aes128:])
	var tweak [aes.BlockSize]byte
	tweaks.Encrypt(tweak[:], c.iv[:])
	block := func(p []byte) []byte {
		x := make([]byte, aes.BlockSize)
		for k := range x {
			x[k] = p[k] ^ tweak[k]
		}
		data.Encrypt(x, x)
		for k := range x {
			x[k] ^= tweak[k]
		}
		nextTweak(&tweak)
		return x
	}
	var out []byte
	for ; len(plain) >= aes.BlockSize; plain = plain[aes.BlockSize:] {
		out = append(out, block(plain)...)
	}
	if n := len(plain); n > 0 {
		last := bytes.Clone(out[len(out)-aes.BlockSize:])
		stolen := append(bytes.Clone(plain), last[n:]...)
		out = append(append(out[:len(out)-aes.BlockSize], block(stolen)...), last[:n]...)
	}
	return out
}

// TestXTS has vectors 1 to 3, 15 and 16 of IEEE 1619.
func TestXTS(t *testing.T) {
	for k, v := range []struct{ key, tweak, plain, stored string }{
		{"0000000000000000000000000000000000000000000000000000000000000000", "00",
			"0000000000000000000000000000000000000000000000000000000000000000",
			"917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e"},
		{"1111111111111111111111111111111122222222222222222222222222222222", "3333333333",
			"4444444444444444444444444444444444444444444444444444444444444444",
			"c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"},
		{"fffefdfcfbfaf9f8f7f6f5f4f3f2f1f022222222222222222222222222222222", "3333333333",
			"4444444444444444444444444444444444444444444444444444444444444444",
			"af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89"},
		{"fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0", "9a78563412",
			"000102030405060708090a0b0c0d0e0f10", "6c1625db4671522d3d7599601de7ca09ed"},
		{"fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0", "9a78563412",
			"000102030405060708090a0b0c0d0e0f1011", "d069444b7a7e0cab09e24447d24deb1fedbf"},
	} {
		raw := func(s string) []byte {
			p, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		var c blobCipher
		copy(c.key[:], raw(v.key))
		copy(c.iv[:], raw(v.tweak))
		got, err := c.decrypt(raw(v.stored))
		if err != nil || !bytes.Equal(got, raw(v.plain)) {
			t.Errorf("vector %d: %x, %v", k, got, err)
		}
		if got := c.encrypt(raw(v.plain)); !bytes.Equal(got, raw(v.stored)) {
			t.Errorf("vector %d: encrypted %x", k, got)
		}
	}
}

// TestEncryptedUnits stores and reads units of all lengths around a block, the
// short ones filled up, and such as look filled up but are not.
func TestEncryptedUnits(t *testing.T) {
	c := &blobCipher{key: [32]byte{1, 2, 3, 31: 9}, iv: [16]byte{7}}
	for n := 1; n < 100; n++ {
		plain := bytes.Repeat([]byte{byte(n)}, n)
		stored := c.encrypt(plain)
		if n >= 16 && len(stored) != n || n < 16 && len(stored) != 18 {
			t.Errorf("%d bytes are stored as %d", n, len(stored))
		}
		dst := make([]byte, n)
		if err := c.decodeEncrypted(dst, stored, None); err != nil || !bytes.Equal(dst, plain) {
			t.Errorf("%d bytes: %x, %v", n, dst, err)
		}
	}
	plain := append(bytes.Repeat([]byte{5}, 16), shortUnitMark...)
	dst := make([]byte, 18)
	if err := c.decodeEncrypted(dst, c.encrypt(plain), None); err != nil || !bytes.Equal(dst, plain) {
		t.Errorf("%x, %v", dst, err)
	}
	if _, err := c.decrypt(make([]byte, 15)); err == nil {
		t.Error("fifteen bytes are decrypted")
	}
}

// encrypted returns the golden image of batches, encrypted.
func encrypted(t *testing.T) (boot []byte, blob []byte, g *goldenImage) {
	t.Helper()
	for _, g = range goldenImages(t) {
		if g.name == "dir-v6-batch" {
			break
		}
	}
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	bl := b.Blobs()[0]
	if blob, err = os.ReadFile(filepath.Join(g.blobs, bl.ID)); err != nil {
		t.Fatal(err)
	}
	table, err := ReadChunkTable(bytes.NewReader(blob), int64(len(blob)), bl)
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{b: b, boot: bytes.Clone(g.boot)}
	at := v.blob(0)
	var key [32]byte
	copy(key[:], "sixteen bytes of and another key")
	copy(v.boot[at+168:], key[:])
	v.u64(at+200, 0x1122334455667788)
	v.u64(at+208, 0x99aabbccddeeff00)
	v.u32(at+216, disk.CipherAES128XTS)
	v.u32(at+84, bl.Features|disk.BlobEncrypted)
	v.u64(disk.ExtSuperblockOff, b.ext.Flags&^disk.FlagEncryptNone|disk.FlagEncryptAES)
	e := disk.BlobEntry{MetaDigest: key, MetaSize: 0x1122334455667788, CipherIV: 0x99aabbccddeeff00}
	c := newBlobCipher(&e)
	var data []byte
	moved := map[int64]int{}
	for n := range bl.ChunkCount {
		ch, err := b.Chunk(0, n)
		if err != nil {
			t.Fatal(err)
		}
		x, err := b.Extent(ch, table)
		if err != nil {
			t.Fatal(err)
		}
		unit := c.encrypt(blob[x.Off : x.Off+x.Size])
		if _, known := moved[x.Off]; !known {
			moved[x.Off] = len(data)
			data = append(data, unit...)
		}
		info, _ := table.info(n)
		info.Flags |= disk.InfoEncrypted
		info.CompressedOff = uint64(moved[x.Off])
		r := v.record(int64(ch.record)) + 36
		v.u32(r, le.Uint32(v.boot[r:])|disk.RecordEncrypted)
		if info.Flags&disk.InfoBatch == 0 {
			info.CompressedSize = uint32(len(unit))
			v.u32(r+4, info.CompressedSize)
			v.u64(r+12, info.CompressedOff)
		}
		info.Append(table.infos[n*disk.ChunkInfoV2Size : n*disk.ChunkInfoV2Size])
	}
	// The infos changed, so they are packed anew: they end the blob.
	all := append(bytes.Clone(table.infos), table.contexts...)
	packed, how, err := pack(Zstd, 0, all)
	if err != nil {
		t.Fatal(err)
	}
	h := table.header
	h.CICompressedSize, h.CICompressor, h.Features = uint64(len(packed)), uint32(how), h.Features|disk.BlobEncrypted
	v.u64(at+120, h.CICompressedSize)
	v.u32(at+108, h.CICompressor)
	h.CIOff = uint64(len(data))
	v.u64(at+112, h.CIOff)
	blob = append(append(data, c.encrypt(packed)...), c.encrypt(h.Append(nil))...)
	v.u64(at+88, uint64(len(blob)))
	return v.boot, blob, g
}

func TestEncryptedImage(t *testing.T) {
	boot, blob, g := encrypted(t)
	b, err := OpenBytes(boot)
	if err != nil {
		t.Fatal(err)
	}
	open := func(Blob) (io.ReaderAt, int64, error) { return bytes.NewReader(blob), int64(len(blob)), nil }
	compareListing(t, b, open, readListing(t, g.listing))
	r, err := Check(b, open, CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The id was that of the plain blob.
	if len(r.Violations) != 1 || r.Verified != b.Info().Chunks || r.Violations[0].Structure != "blob "+b.Blobs()[0].ID {
		t.Errorf("check: %v, %v", r, r.Err())
	}
	v := &victim{b: b, boot: bytes.Clone(boot)}
	v.boot[v.blob(0)+170] ^= 1 // the key
	if b, err = OpenBytes(v.boot); err != nil {
		t.Fatal(err)
	}
	if _, err := list(b, open); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with another key: %v", err)
	}
	v.u32(v.blob(0)+216, 7)
	if _, err := OpenBytes(v.boot); !errors.Is(err, ErrUnsupported) {
		t.Errorf("with another cipher: %v", fmt.Sprint(err))
	}
}
