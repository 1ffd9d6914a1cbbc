// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/gzip"

	"lighter/format"
	. "lighter/format/formattest"
)

// TestLeadIn: no blob begins like a compressed stream, which Docker would
// unpack, whatever its first chunk holds and also where it has none.
func TestLeadIn(t *testing.T) {
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	noise := make([]byte, 9000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	w.Write(noise)
	w.Close()
	zstd, none, lz4 := format.Zstd, format.None, format.LZ4Block
	for name, files := range map[string][]File{
		"text":      {{Name: "a", Content: string(bytes.Repeat([]byte("words "), 2000))}},
		"gzip file": {{Name: "a.gz", Content: gz.String()}},
		"bzip2":     {{Name: "a", Content: "BZh9" + string(noise)}},
		"xz":        {{Name: "a", Content: "\xfd7zXZ\x00" + string(noise)}},
		"skippable": {{Name: "a", Content: "\x5f\x2a\x4d\x18" + string(noise)}},
		"no data":   {Dir("d"), Symlink("s", "t")},
		"noise":     {{Name: "a", Content: string(noise)}},
	} {
		for _, c := range []*format.Compressor{&zstd, &none, &lz4} {
			tar := Tar(t, files...)
			var out bytes.Buffer
			l, err := format.BuildLayer(&out, bytes.NewReader(tar), format.BuildOptions{Compressor: c})
			if err != nil {
				t.Fatal(err)
			}
			p := out.Bytes()
			for _, magic := range []string{"\x1f\x8b\x08", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
				if bytes.HasPrefix(p, []byte(magic)) {
					t.Errorf("%s, %v: begins with %q", name, *c, magic)
				}
			}
			if len(p) > 4 && p[0]&0xf0 == 0x50 && bytes.HasPrefix(p[1:], []byte("\x2a\x4d\x18")) {
				t.Errorf("%s, %v: begins with a skippable frame", name, *c)
			}
			if l.Size != int64(len(p)) {
				t.Errorf("%s: size %d of %d", name, l.Size, len(p))
			}
			lb, err := format.ReadLayerBlob(bytes.NewReader(p), int64(len(p)))
			if err != nil {
				t.Fatal(err)
			}
			if boot, err := lb.Bootstrap(); err != nil || !bytes.Equal(boot, l.Bootstrap) {
				t.Errorf("%s, %v: bootstrap differs: %v", name, *c, err)
			}
		}
	}
}
