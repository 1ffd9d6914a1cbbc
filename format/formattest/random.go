// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"path"
	"time"
)

// RandomLayer writes a layer of about n random entries that collide a lot
// with each other and with lower layers, and applies it to the model.
func RandomLayer(r *rand.Rand, m *Model, n int) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := m.Begin(); err != nil {
		return nil, err
	}
	for range n {
		h, content := randomEntry(r)
		if m.Add(h, content) != nil {
			continue // it cannot be unpacked here
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%+v: %w", h, err)
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), m.End()
}

var randomNames = []string{"a", "b", "c", "dd", ".hidden", "!x", "ünï", "new\nline", "\xff\xfe", "zz"}

func randomPath(r *rand.Rand) string {
	p := randomNames[r.IntN(len(randomNames))]
	for r.IntN(2) == 0 {
		p = path.Join(p, randomNames[r.IntN(4)])
	}
	return p
}

func randomEntry(r *rand.Rand) (*tar.Header, []byte) {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: randomPath(r), Mode: int64(r.IntN(0o10000)), Uid: r.IntN(3) * 1000, Gid: r.IntN(2) * 5,
		ModTime: time.Unix(r.Int64N(2e9), r.Int64N(2)*123456789),
	}
	if r.IntN(4) == 0 {
		h.PAXRecords = map[string]string{
			fmt.Sprintf("SCHILY.xattr.user.n%d", r.IntN(3)): string(make([]byte, r.IntN(40))),
		}
	}
	var content []byte
	switch r.IntN(16) {
	default:
		h.Typeflag = tar.TypeReg
		content = randomContent(r)
		h.Size = int64(len(content))
	case 0, 1, 2, 3:
		h.Typeflag = tar.TypeDir
	case 4:
		h.Typeflag, h.Linkname = tar.TypeSymlink, randomPath(r)
		if r.IntN(2) == 0 {
			h.Linkname = "/" + h.Linkname
		}
	case 5, 6:
		h.Typeflag, h.Linkname = tar.TypeLink, randomPath(r)
	case 7:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 259, r.Int64N(1000)
	case 8:
		h.Typeflag = tar.TypeFifo
	case 9, 10:
		h.Typeflag = tar.TypeReg
		dir, base := path.Split(h.Name)
		h.Name = dir + ".wh." + base
	case 11:
		h.Typeflag = tar.TypeReg
		h.Name = path.Join(path.Dir(h.Name), ".wh..wh..opq")
	case 12:
		if r.IntN(4) == 0 {
			h.Typeflag, h.Name = tar.TypeDir, "./"
			break
		}
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, 7, 300
	}
	return h, content
}

// randomContent has sizes around blocks and chunks of 4096 bytes, and few
// different bytes.
func randomContent(r *rand.Rand) []byte {
	size := []int{0, 1, 100, 4095, 4096, 4097, 8192, 20000}[r.IntN(8)]
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(r.IntN(2))
	}
	if r.IntN(3) == 0 {
		clear(p)
	}
	return p
}
