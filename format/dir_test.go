// SPDX-License-Identifier: Apache-2.0

package format

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

// manyNames builds a layer with n empty files in one directory.
func manyNames(t testing.TB, n int) *Bootstrap {
	t.Helper()
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	if err := w.WriteHeader(&tar.Header{Name: "many/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	for k := range n {
		if err := w.WriteHeader(&tar.Header{Name: "many/" + nameOf(k), Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	l, err := BuildLayer(&out, &in, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenBytes(l.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func nameOf(k int) string { return fmt.Sprintf("a name with the number %06d", k) }

// TestDirentsResume begins a listing of 1,500 names at every entry.
func TestDirentsResume(t *testing.T) {
	g := goldenImages(t)[0]
	b, err := OpenBytes(g.boot)
	if err != nil {
		t.Fatal(err)
	}
	root, err := b.Inode(b.Info().RootNid)
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	err = b.Dirents(root, 0, func(_ int, d Dirent) bool {
		if d.Type != DTDir || d.Name == ".." {
			return true
		}
		dir, err := b.Inode(d.Nid)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		var at []int
		collect := func(i int, d Dirent) bool {
			names, at = append(names, d.Name), append(at, i)
			return true
		}
		if err := b.Dirents(dir, 0, collect); err != nil {
			t.Fatal(err)
		}
		all, pos := names, at
		most = max(most, len(all))
		for k := range all {
			if k > 0 && pos[k] <= pos[k-1] {
				t.Fatalf("position %d follows %d", pos[k], pos[k-1])
			}
			names = nil
			if err := b.Dirents(dir, pos[k]+1, func(i int, d Dirent) bool { names = append(names, d.Name); return len(names) < 3 }); err != nil {
				t.Fatal(err)
			}
			for j := range min(3, len(all)-k-1) {
				if names[j] != all[k+1+j] {
					t.Fatalf("after %q: %q rather than %q", all[k], names[j], all[k+1+j])
				}
			}
			if k == len(all)-1 && len(names) > 0 {
				t.Fatalf("after the end: %q", names)
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if most < 1500 {
		t.Fatalf("the largest directory has only %d names", most)
	}
}

// TestLargeDirectory lists 100,000 names in pieces of 30 and looks up each.
func TestLargeDirectory(t *testing.T) {
	const n = 100_000
	b := manyNames(t, n)
	dir, err := b.LookupPath("many")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for from, done := 0, false; !done; {
		in := 0
		done = true
		if err := b.Dirents(dir, from, func(i int, d Dirent) bool {
			if count >= 2 && d.Name != nameOf(count-2) {
				t.Fatalf("name %d is %q", count-2, d.Name)
			}
			from, in, count, done = i+1, in+1, count+1, false
			return in < 30
		}); err != nil {
			t.Fatal(err)
		}
	}
	if count != n+2 {
		t.Fatalf("%d entries", count)
	}
	for k := range n {
		if _, err := b.Lookup(dir, nameOf(k)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", "a", "zz", nameOf(n), nameOf(5) + "x", "..."} {
		if _, err := b.Lookup(dir, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
	r, err := Check(b, nil, CheckOptions{})
	if err != nil || r.Err() != nil || r.Names != n+2 {
		t.Errorf("%v, %v, %d names", err, r.Err(), r.Names)
	}
}

func BenchmarkLookup(b *testing.B) {
	boot := manyNames(b, 10_000)
	dir, err := boot.LookupPath("many")
	if err != nil {
		b.Fatal(err)
	}
	name := nameOf(7777)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := boot.Lookup(dir, name); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDirents(b *testing.B) {
	boot := manyNames(b, 10_000)
	dir, err := boot.LookupPath("many")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := boot.Dirents(dir, 0, func(int, Dirent) bool { return true }); err != nil {
			b.Fatal(err)
		}
	}
}
