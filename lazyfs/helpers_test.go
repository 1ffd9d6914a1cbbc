// SPDX-License-Identifier: Apache-2.0

package lazyfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"sync"
	"testing"
	"time"

	"lighter/format"
	"lighter/lazyfs/lazyfstest"
)

// logBuffer is a log that tests can read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// quick are options under which failing tests fail soon.
func quick() StoreOptions {
	return StoreOptions{ReadTimeout: 30 * time.Second, Backoff: 5 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
}

// plain are quick options without any fetch that nobody asked for.
func plain() StoreOptions {
	o := quick()
	o.ReadAhead, o.MergeSize = -1, -1
	return o
}

func newStore(t testing.TB, dir string, o StoreOptions) *Store {
	t.Helper()
	s, err := NewStore(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if n := s.claims.Len(); n != 0 {
			t.Errorf("%d claims are left", n)
		}
	})
	return s
}

func specOf(g *lazyfstest.Image) ImageSpec {
	return ImageSpec{Bootstrap: g.Bootstrap, Digest: g.Digest, Opener: g.Blobs, MetaDir: g.MetaDir}
}

func openImage(t testing.TB, s *Store, spec ImageSpec) *Image {
	t.Helper()
	im, err := s.OpenImage(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// file is one regular file of an image, and its whole content.
type file struct {
	path string
	ino  format.Inode
	data []byte
}

// readWhole reads a file in pieces of n bytes.
func readWhole(ctx context.Context, im *Image, ino format.Inode, n int) ([]byte, error) {
	data := make([]byte, 0, ino.Size)
	p := make([]byte, n)
	for off := int64(0); ; {
		k, err := im.ReadAt(ctx, ino, p, off)
		data = append(data, p[:k]...)
		off += int64(k)
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return data, err
		}
	}
}

func inode(t testing.TB, im *Image, path string) format.Inode {
	t.Helper()
	ino, err := im.Bootstrap().LookupPath(path)
	if err != nil {
		// Listings percent-encode paths that are not printable.
		if raw, e := url.PathUnescape(path); e == nil {
			ino, err = im.Bootstrap().LookupPath(raw)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return ino
}

// checkAll reads all files of an image and compares them with its listing.
func checkAll(t testing.TB, im *Image, g *lazyfstest.Image, step int) {
	t.Helper()
	n := 0
	for path, want := range g.Files {
		n++
		data, err := readWhole(t.Context(), im, inode(t, im, path), step)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want.SHA256 || int64(len(data)) != want.Size {
			t.Errorf("%s: read %d bytes with digest %x, want %d with %s", path, len(data), sum, want.Size, want.SHA256)
		}
	}
	if n < 25 {
		t.Fatalf("only %d files to read", n)
	}
}

// files returns the files of an image with content of at least min
// bytes, read through a store of its own.
func files(t testing.TB, g *lazyfstest.Image, min int64) []file {
	t.Helper()
	s := newStore(t, t.TempDir(), quick())
	im := openImage(t, s, specOf(g))
	var fs []file
	for path, want := range g.Files {
		if want.Size < min {
			continue
		}
		ino := inode(t, im, path)
		data, err := readWhole(t.Context(), im, ino, 1<<20)
		if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != want.SHA256 {
			t.Fatalf("%s: %v", path, err)
		}
		fs = append(fs, file{path, ino, data})
	}
	if len(fs) == 0 {
		t.Fatalf("no file of %d bytes", min)
	}
	g.Blobs.Calls()
	g.Blobs.Requests.Store(0)
	g.Blobs.Opens.Store(0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

func newLog(l *logBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// tarOf is a tar archive of one file.
func tarOf(name string, data []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
	w.Write(data)
	w.Close()
	return b.Bytes()
}
