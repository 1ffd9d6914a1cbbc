// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"lighter/format"
)

// Entry is one file of a listing. The JSON form is that of the listings that
// belong to the golden images.
type Entry struct {
	Path   string            `json:"path"` // escaped; "." is the root
	Type   string            `json:"type"` // f d l c b p s
	Mode   string            `json:"mode"` // octal, permissions and set-id bits
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Size   int64             `json:"size"`  // files and links
	Nlink  uint32            `json:"nlink"` // all but directories
	Mtime  int64             `json:"mtime"` // seconds; 0 for the root
	SHA256 string            `json:"sha256,omitempty"`
	Link   string            `json:"link,omitempty"` // escaped
	Rdev   string            `json:"rdev,omitempty"` // major:minor
	Xattrs map[string]string `json:"xattrs,omitempty"`

	Nsec uint32 `json:"-"` // of Mtime, where the source tells it; Diff leaves it out
}

// Listing is a tree, sorted by path.
type Listing []Entry

// ReadListing reads a listing of one JSON object a line.
func ReadListing(path string) (Listing, error) {
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var l Listing
	s := bufio.NewScanner(bytes.NewReader(p))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var e Entry
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, len(l)+1, err)
		}
		l = append(l, e)
	}
	return l.sorted(), s.Err()
}

func (l Listing) sorted() Listing {
	slices.SortFunc(l, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return l
}

// Diff returns the differences of two listings, one a line; "" means equal.
// After 20 it stops.
func Diff(want, got Listing) string {
	var out []string
	w, g := byPath(want), byPath(got)
	for _, e := range want {
		if o, ok := g[e.Path]; !ok {
			out = append(out, "missing: "+e.json())
		} else if a, b := e.json(), o.json(); a != b {
			out = append(out, "want "+a+"\n got "+b)
		}
	}
	for _, e := range got {
		if _, ok := w[e.Path]; !ok {
			out = append(out, "unexpected: "+e.json())
		}
	}
	if len(want) != len(got) {
		out = append(out, fmt.Sprintf("%d entries, want %d", len(got), len(want)))
	}
	if len(out) > 20 {
		out = append(out[:20], fmt.Sprintf("… %d differences", len(out)))
	}
	return strings.Join(out, "\n")
}

func byPath(l Listing) map[string]Entry {
	m := make(map[string]Entry, len(l))
	for _, e := range l {
		m[e.Path] = e
	}
	return m
}

func (e Entry) json() string {
	p, err := json.Marshal(e)
	if err != nil {
		panic("formattest: internal error: " + err.Error())
	}
	return string(p)
}

// Escape writes a name as listings do: as it is when it is printable UTF-8,
// else with percent signs.
func Escape(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > ' ' && c < 127 && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

var typeLetters = map[uint32]string{
	format.ModeRegular: "f", format.ModeDir: "d", format.ModeSymlink: "l", format.ModeChar: "c",
	format.ModeBlock: "b", format.ModeFIFO: "p", format.ModeSocket: "s",
}

// newEntry makes an entry of what all sources know of an inode.
func newEntry(path string, mode, uid, gid, nlink, rdev uint32, size, mtime int64) Entry {
	e := Entry{Path: Escape(path), Type: typeLetters[mode&format.ModeType], Mode: fmt.Sprintf("0o%o", mode&0o7777), UID: uid, GID: gid}
	if e.Type != "d" {
		e.Nlink = nlink
	}
	if path == "" {
		e.Path = "."
	} else {
		e.Mtime = mtime
	}
	switch e.Type {
	case "f", "l":
		e.Size = size
	case "c", "b":
		i := format.Inode{Rdev: rdev}
		e.Rdev = fmt.Sprintf("%d:%d", i.Major(), i.Minor())
	}
	return e
}

func (e *Entry) setXattr(name string, value []byte) {
	if strings.HasPrefix(name, "trusted.overlay.") {
		return
	}
	if e.Xattrs == nil {
		e.Xattrs = map[string]string{}
	}
	e.Xattrs[name] = hex.EncodeToString(value)
}
