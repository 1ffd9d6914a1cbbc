// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"lighter/format/internal/disk"
)

// goldenLayers returns the layer blobs of a tag.
func goldenLayers(t testing.TB, g *goldenImage) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, id := range g.layers {
		r, size, err := g.open(Blob{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, size)
		if _, err := r.ReadAt(p, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		closeIf(r)
		all[id] = p
	}
	if len(all) == 0 {
		t.Fatal("no layers")
	}
	return all
}

func TestLayerBlob(t *testing.T) {
	for _, tag := range []string{"v6-zstd", "v6-lz4_block", "v6-none", "v6-ociref"} {
		g := goldenTag(t, tag)
		for id, p := range goldenLayers(t, g) {
			if !IsLayerBlob(p[len(p)-512:]) {
				t.Errorf("%s: layer %s is not known", tag, id)
			}
			l, err := ReadLayerBlob(bytes.NewReader(p), int64(len(p)))
			if err != nil {
				t.Fatal(err)
			}
			boot, err := l.Bootstrap()
			if err != nil {
				t.Fatal(err)
			}
			if !IsBootstrap(boot[:4096]) || IsLayerBlob(boot) || IsBootstrap(p[:4096]) {
				t.Errorf("%s: layer %s: bootstrap and blob are confused", tag, id)
			}
			b, err := OpenBytes(boot)
			if err != nil {
				t.Fatal(err)
			}
			if l.HasData != (len(b.Blobs()) > 0) {
				t.Errorf("%s: layer %s: %d blobs, data %v", tag, id, len(b.Blobs()), l.HasData)
			}
			if tag != "v6-ociref" && b.Blobs()[0].ID != PlaceholderID {
				t.Errorf("%s: layer %s: id %s", tag, id, b.Blobs()[0].ID)
			}
			if r, err := Check(b, nil, CheckOptions{}); err != nil || r.Err() != nil {
				t.Errorf("%s: layer %s: %v, %v", tag, id, err, r.Err())
			}
			meta, err := l.Meta()
			if err != nil {
				t.Fatal(err)
			}
			want, ok := g.meta[id]
			if tag == "v6-lz4_block" { // that converter cannot read lz4 parts and ships the header alone
				want, ok = append(meta[:len(meta)-4096:len(meta)-4096], want...), len(want) == 4096
			}
			if !ok || !bytes.Equal(meta, want) {
				t.Errorf("%s: layer %s: other chunk infos than those shipped with the bootstrap", tag, id)
			}
			if _, err := ParseChunkTable(meta, b.Blobs()[0]); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestLayerBlobWithoutTOC finds the bootstrap by the tar headers alone.
func TestLayerBlobWithoutTOC(t *testing.T) {
	boot := goldenTag(t, "v6-none").boot
	data := bytes.Repeat([]byte("data"), 1000)
	p := append([]byte{}, data...)
	p = (&disk.TarHeader{Name: disk.NameBlobData, Size: int64(len(data))}).Append(p)
	p = append(p, boot...)
	p = (&disk.TarHeader{Name: disk.NameBootstrap, Size: int64(len(boot))}).Append(p)
	l, err := ReadLayerBlob(bytes.NewReader(p), int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Bootstrap()
	if err != nil || !bytes.Equal(got, boot) || !l.HasData {
		t.Errorf("another bootstrap: %v, data %v", err, l.HasData)
	}
	if meta, err := l.Meta(); meta != nil || err != nil {
		t.Errorf("%d bytes of chunk infos, %v", len(meta), err)
	}
	for n := range 200 {
		short := p[:len(p)-1-n*7]
		if _, err := ReadLayerBlob(bytes.NewReader(short), int64(len(short))); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d bytes less: %v", n, err)
		}
	}
}

// TestLayerBlobFlips changes single bytes of what lies behind the data: the
// bootstrap is refused or the same.
func TestLayerBlobFlips(t *testing.T) {
	g := goldenTag(t, "v6-zstd")
	for id, p := range goldenLayers(t, g) {
		if len(p) > 100_000 {
			continue
		}
		l, err := ReadLayerBlob(bytes.NewReader(p), int64(len(p)))
		if err != nil {
			t.Fatal(err)
		}
		want, err := l.Bootstrap()
		if err != nil {
			t.Fatal(err)
		}
		for off := int(l.parts[disk.NameBootstrap].Off); off < len(p); off += 7 {
			p[off] ^= 0x10
			l, err := ReadLayerBlob(bytes.NewReader(p), int64(len(p)))
			var got []byte
			if err == nil {
				got, err = l.Bootstrap()
			}
			p[off] ^= 0x10
			if err == nil && !bytes.Equal(got, want) {
				t.Fatalf("layer %s: byte %d changed, and so is the bootstrap", id, off)
			}
			if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
				t.Fatal(err)
			}
		}
	}
}
