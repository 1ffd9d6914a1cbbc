// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"path"
	"strings"

	"github.com/vbatts/tar-split/tar/storage"
)

const (
	segmentSize = 1 << 20  // bytes of one piece of raw data in the tar-split file
	headerLimit = 16 << 20 // bytes of headers before one entry; archive/tar bounds each by 1 MiB
)

// recorder passes a reader's bytes on and, while on, keeps a copy of them.
type recorder struct {
	r   io.Reader
	on  bool
	buf []byte
	err error // that of the last Read, io.EOF included
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.on {
		if len(r.buf)+n > headerLimit {
			return 0, fmt.Errorf("headers of one entry exceed %d bytes", headerLimit)
		}
		r.buf = append(r.buf, p[:n]...)
	}
	if err != nil {
		r.err = err
	}
	return n, err
}

// entryWriter takes a tar's entries: of each Begin, then its data, whatever its type, then End.
type entryWriter interface {
	Begin(hdr *tar.Header) error
	io.Writer
	End() error
}

// disassembler cuts a tar stream into what the unpacked files will hold and the rest, as tar-split does: the rest goes to
// the packer as segments, each file as its name, size and CRC-64. Each entry goes to out as well, for unpacking.
//
// It differs from tar-split's own in what must not be lost: the contents of entries that are not unpacked as regular files
// (sparse files, whiteouts with content) become segments, so that the stream can be assembled again.
type disassembler struct {
	src  *recorder
	pack storage.Packer
	out  entryWriter
	seen map[string]bool // cleaned names of regular files with content
	buf  []byte
}

var errUnreadableTwice = errors.New("file occurs twice in the layer's tar with content, which no layer store can give back")

// notTarError says that the stream can't be split as a tar from some point on. Everything before it was stored, but for
// the bytes in pending, which were read already.
type notTarError struct {
	err     error
	pending []byte
}

func (e *notTarError) Error() string { return "layer's tar: " + e.err.Error() }
func (e *notTarError) Unwrap() error { return e.err }

// disassemble reads src to its end.
func disassemble(src io.Reader, pack storage.Packer, out entryWriter) error {
	d := &disassembler{
		src:  &recorder{r: src, on: true},
		pack: pack,
		out:  out,
		seen: make(map[string]bool),
		buf:  make([]byte, 128<<10),
	}
	return d.run()
}

func (d *disassembler) run() error {
	tr := tar.NewReader(d.src)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return d.trailer()
		}
		if err == nil && d.seen[rootedName(hdr.Name)] {
			err = fmt.Errorf("%q: %w", hdr.Name, errUnreadableTwice)
		}
		if err != nil {
			return &notTarError{err, d.src.buf}
		}
		if err := d.flush(); err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := d.out.Begin(hdr); err != nil {
			return err
		}
		if err := d.content(tr, hdr); err != nil {
			return err
		}
		if err := d.out.End(); err != nil {
			return err
		}
	}
}

// flush stores what was recorded as one segment.
func (d *disassembler) flush() error {
	b := d.src.buf
	if len(b) == 0 {
		return nil
	}
	if _, err := d.pack.AddEntry(storage.Entry{Type: storage.SegmentType, Payload: b}); err != nil {
		return err
	}
	d.src.buf = b[:0]
	return nil
}

// content takes the data of one entry.
func (d *disassembler) content(tr *tar.Reader, hdr *tar.Header) error {
	if !fileContent(hdr) {
		return d.rawContent(tr)
	}
	// An entry follows only once its checksum is known, but must lie in the tar-split file before the padding.
	crc := crc64.New(storage.CRCTable)
	d.src.on = false
	var size int64
	for {
		n, err := tr.Read(d.buf)
		if n > 0 {
			crc.Write(d.buf[:n])
			if _, err := d.out.Write(d.buf[:n]); err != nil {
				return err
			}
			size += int64(n)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("layer's tar: %q: %w", hdr.Name, err)
		}
	}
	d.src.on = true
	if size == 0 {
		return nil
	}
	d.seen[rootedName(hdr.Name)] = true
	e := storage.Entry{Type: storage.FileType, Size: size, Payload: crc.Sum(nil)}
	e.SetName(hdr.Name)
	_, err := d.pack.AddEntry(e)
	return err
}

// rawContent stores an entry's data as it lies in the stream.
func (d *disassembler) rawContent(tr *tar.Reader) error {
	for {
		n, err := tr.Read(d.buf)
		if _, err := d.out.Write(d.buf[:n]); err != nil {
			return err
		}
		if len(d.src.buf) >= segmentSize || err != nil {
			if err := d.flush(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("layer's tar: %w", err)
		}
	}
}

// trailer takes what follows the last entry: the end marker, and whatever else the stream has.
func (d *disassembler) trailer() error {
	for d.src.err == nil {
		if _, err := d.src.Read(d.buf); err != nil && err != io.EOF {
			return err
		}
		if len(d.src.buf) >= segmentSize {
			if err := d.flush(); err != nil {
				return err
			}
		}
	}
	if d.src.err != io.EOF {
		return d.src.err
	}
	return d.flush()
}

// fileContent tells whether an entry's data will lie as it is in an unpacked regular file.
func fileContent(hdr *tar.Header) bool {
	if hdr.Typeflag != tar.TypeReg || strings.HasPrefix(path.Base(path.Clean(hdr.Name)), whiteoutPrefix) {
		return false
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return false
		}
	}
	return true
}
