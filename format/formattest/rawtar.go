// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

const tarBlock = 512 // bytes

// rawHeader returns the header of one tar entry, byte for byte as asked for:
// writers refuse to make some that readers meet. edit may change it; the
// checksum comes last.
func rawHeader(name string, typeflag byte, size int, edit func(h []byte)) []byte {
	h := make([]byte, tarBlock)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], fmt.Sprintf("%011o\x00", 1700000000))
	h[156] = typeflag
	copy(h[257:], "ustar\x0000")
	if edit != nil {
		edit(h)
	}
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// padded fills p up to whole blocks.
func padded(p []byte) []byte {
	return append(p, make([]byte, (tarBlock-len(p)%tarBlock)%tarBlock)...)
}

// paxHeader returns an extended header with records of the form "key=value",
// in this order.
func paxHeader(records ...string) []byte {
	var body bytes.Buffer
	for _, r := range records {
		n := len(r) + 3
		for len(strconv.Itoa(n))+len(r)+2 != n {
			n = len(strconv.Itoa(n)) + len(r) + 2
		}
		fmt.Fprintf(&body, "%d %s\n", n, r)
	}
	return append(rawHeader("PaxHeaders.0/x", 'x', body.Len(), nil), padded(body.Bytes())...)
}

// stretch is data in a sparse file.
type stretch struct {
	off  int
	data string
}

func joined(s []stretch) []byte {
	var b bytes.Buffer
	for _, x := range s {
		b.WriteString(x.data)
	}
	return b.Bytes()
}

// paxSparse returns a sparse file as GNU tar writes it in PAX format: version
// "0.0", "0.1" or "1.0". size is that of the file with its holes.
func paxSparse(version, name string, size int, data ...stretch) []byte {
	body := joined(data)
	var records, list []string
	for _, x := range data {
		list = append(list, strconv.Itoa(x.off), strconv.Itoa(len(x.data)))
	}
	switch version {
	case "0.0":
		records = []string{"GNU.sparse.size=" + strconv.Itoa(size), "GNU.sparse.numblocks=" + strconv.Itoa(len(data))}
		for i := 0; i < len(list); i += 2 {
			records = append(records, "GNU.sparse.offset="+list[i], "GNU.sparse.numbytes="+list[i+1])
		}
	case "0.1":
		records = []string{"GNU.sparse.size=" + strconv.Itoa(size), "GNU.sparse.numblocks=" + strconv.Itoa(len(data)),
			"GNU.sparse.map=" + strings.Join(list, ","), "GNU.sparse.name=" + name}
		name = "GNUSparseFile.0/" + name
	default:
		records = []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=" + name, "GNU.sparse.realsize=" + strconv.Itoa(size)}
		head := strings.Join(append([]string{strconv.Itoa(len(data))}, list...), "\n") + "\n"
		body = append(padded([]byte(head)), body...)
		name = "GNUSparseFile.0/" + name
	}
	out := append(paxHeader(records...), rawHeader(name, '0', len(body), nil)...)
	return append(out, padded(body)...)
}

// gnuSparse returns a sparse file in the old GNU format. Stretches that the
// header has no room for follow in an extension block.
func gnuSparse(name string, size int, data ...stretch) []byte {
	entry := func(at []byte, x stretch) {
		copy(at, fmt.Sprintf("%011o\x00", x.off))
		copy(at[12:], fmt.Sprintf("%011o\x00", len(x.data)))
	}
	body := joined(data)
	inHeader := min(len(data), 4)
	out := rawHeader(name, 'S', len(body), func(h []byte) {
		copy(h[257:], "ustar  \x00")
		for i, x := range data[:inHeader] {
			entry(h[386+24*i:], x)
		}
		if len(data) > inHeader {
			h[482] = 1
		}
		copy(h[483:], fmt.Sprintf("%011o\x00", size))
	})
	for rest := data[inHeader:]; len(rest) > 0; {
		n := min(len(rest), 21)
		ext := make([]byte, tarBlock)
		for i, x := range rest[:n] {
			entry(ext[24*i:], x)
		}
		if rest = rest[n:]; len(rest) > 0 {
			ext[504] = 1
		}
		out = append(out, ext...)
	}
	return append(out, padded(body)...)
}
