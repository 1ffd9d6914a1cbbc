// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"lighter/format"
)

// Kept tar data is what a layer's tar holds besides the contents of its files,
// in the form of tar-split, gzip-compressed: with the files it gives the very
// bytes of the layer again.

const (
	splitSegment = 1 << 20  // bytes of raw data in one entry
	splitHeaders = 16 << 20 // bytes of headers that one entry may have
)

// errTwice: the blob holds only the last file of a name.
var errTwice = errors.New("a name occurs twice with content")

// recorder passes a reader's bytes on and, while on, keeps them.
type recorder struct {
	r   io.Reader
	on  bool
	buf []byte
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.on {
		if len(r.buf)+n > splitHeaders {
			return 0, fmt.Errorf("headers of one entry exceed %d bytes", splitHeaders)
		}
		r.buf = append(r.buf, p[:n]...)
	}
	return n, err
}

// splitTar reads a layer's tar to its end and writes its kept tar data to w.
// What does not lie in a file of the layer's tree as it is, such as the map of
// a sparse file, is kept raw.
func splitTar(w io.Writer, r io.Reader) error {
	zw := gzip.NewWriter(w)
	s := &splitter{src: &recorder{r: r, on: true}, pack: storage.NewJSONPacker(zw), seen: map[string]bool{}, buf: make([]byte, 64<<10)}
	if err := s.run(); err != nil {
		return err
	}
	return zw.Close()
}

type splitter struct {
	src  *recorder
	pack storage.Packer
	seen map[string]bool // cleaned names of files with content
	buf  []byte
}

func (s *splitter) run() error {
	tr := tar.NewReader(s.src)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return err
		}
		if err := s.content(tr, h); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
	for { // what follows the archive
		_, err := s.src.Read(s.buf)
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF || len(s.src.buf) >= splitSegment {
			if ferr := s.flush(); ferr != nil {
				return ferr
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func (s *splitter) flush() error {
	if len(s.src.buf) == 0 {
		return nil
	}
	_, err := s.pack.AddEntry(storage.Entry{Type: storage.SegmentType, Payload: s.src.buf})
	s.src.buf = s.src.buf[:0]
	return err
}

func (s *splitter) content(tr *tar.Reader, h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := path.Clean("/" + h.Name)
	if s.seen[name] {
		return errTwice
	}
	asIs := h.Typeflag == tar.TypeReg && !strings.HasPrefix(path.Base(path.Clean(h.Name)), whiteoutPrefix)
	for key := range h.PAXRecords {
		asIs = asIs && !strings.HasPrefix(key, "GNU.sparse.")
	}
	s.src.on = !asIs
	defer func() { s.src.on = true }()
	crc := crc64.New(storage.CRCTable)
	size := int64(0)
	for {
		n, err := tr.Read(s.buf)
		crc.Write(s.buf[:n])
		size += int64(n)
		if len(s.src.buf) >= splitSegment {
			if ferr := s.flush(); ferr != nil {
				return ferr
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if !asIs || size == 0 {
		return nil
	}
	s.seen[name] = true
	e := storage.Entry{Type: storage.FileType, Size: size, Payload: crc.Sum(nil)}
	e.SetName(h.Name)
	_, err := s.pack.AddEntry(e)
	return err
}

// joinTar writes a layer's tar again, of its kept tar data and its tree, and
// verifies it by its diff id.
func joinTar(w io.Writer, kept io.Reader, want v1.Hash, b *format.Bootstrap, open format.OpenBlob) error {
	zr, err := gzip.NewReader(kept)
	if err != nil {
		return fmt.Errorf("kept tar data: %w", err)
	}
	c := b.Content(open)
	defer c.Close()
	h := sha256.New()
	out := asm.NewOutputTarStream(treeGetter{b, c}, storage.NewJSONUnpacker(zr))
	defer out.Close()
	if _, err := io.Copy(io.MultiWriter(w, h), out); err != nil {
		return fmt.Errorf("kept tar data: %w", err)
	}
	if got := sumOf(h); got != want {
		return fmt.Errorf("kept tar data: %w: gives %s, want %s", ErrDigest, got, want)
	}
	return nil
}

// treeGetter gives the files of a layer by the names of its tar.
type treeGetter struct {
	b *format.Bootstrap
	c *format.Content
}

func (t treeGetter) Get(name string) (io.ReadCloser, error) {
	i, err := Follow(t.b, name)
	if err != nil {
		return nil, err
	}
	if !i.IsRegular() {
		return nil, fmt.Errorf("%s: %w: not a file", name, os.ErrInvalid)
	}
	return io.NopCloser(fileReader(t.c, i)), nil
}
