// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxArchiveFiles bounds the table of an archive's files.
const maxArchiveFiles = 1 << 20

// tarTree is the regular files of an uncompressed tar file, for random access.
type tarTree struct {
	f     *os.File
	files map[string]extent
	links map[string]string // hard and symbolic links, to cleaned names
}

type extent struct{ off, size int64 }

func openTarTree(file string) (*tarTree, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, notFound(err)
	}
	t := &tarTree{f: f, files: map[string]extent{}, links: map[string]string{}}
	if err := t.scan(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: not an image archive: %w", file, err)
	}
	return t, nil
}

func (t *tarTree) scan() error {
	tr := tar.NewReader(t.f)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == maxArchiveFiles {
			return fmt.Errorf("more than %d files", maxArchiveFiles)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			// The reader stands at the content after Next, as it reads a file without buffering.
			off, err := t.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			t.files[name] = extent{off, h.Size}
		case tar.TypeSymlink:
			t.links[name] = path.Join("/"+path.Dir(name), h.Linkname)[1:]
		case tar.TypeLink:
			t.links[name] = path.Clean("/" + h.Linkname)[1:]
		}
	}
}

func (t *tarTree) open(name string) (Blob, error) {
	for hop := 0; hop < 8; hop++ {
		if e, ok := t.files[name]; ok {
			return sectionBlob{io.NewSectionReader(t.f, e.off, e.size)}, nil
		}
		to, ok := t.links[name]
		if !ok {
			break
		}
		name = to
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// sectionBlob is a part of a file that someone else closes.
type sectionBlob struct{ *io.SectionReader }

func (sectionBlob) Close() error { return nil }

// archiveSink writes an OCI archive: a layout in a temporary directory, packed at Commit.
type archiveSink struct {
	*layoutSink
	file string
	tmp  string
}

func newArchiveSink(file, workDir string) (*archiveSink, error) {
	tmp, err := os.MkdirTemp(workDir, "lighter-archive-")
	if err != nil {
		return nil, err
	}
	l, err := newLayoutSink(filepath.Join(tmp, "layout"))
	if err != nil {
		os.RemoveAll(tmp)
		return nil, err
	}
	s := &archiveSink{l, file, tmp}
	if err := s.takeOver(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// takeOver unpacks the archive that is there already: its images stay, and its
// blobs need not be made again.
func (s *archiveSink) takeOver() error {
	t, err := openTarTree(s.file)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer t.f.Close()
	for name := range t.files {
		alg, hex, blob := strings.Cut(strings.TrimPrefix(name, "blobs/"), "/")
		if _, err := v1.NewHash(alg + ":" + hex); name != "index.json" && (!blob || err != nil || !strings.HasPrefix(name, "blobs/")) {
			continue
		}
		b, err := t.open(name)
		if err != nil {
			return err
		}
		to := filepath.Join(s.dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := fill(to, io.NewSectionReader(b, 0, b.Size())); err != nil {
			return fmt.Errorf("%s: %s: %w", s.file, name, err)
		}
	}
	return nil
}

func (s *archiveSink) Commit(ctx context.Context) error {
	if err := s.layoutSink.Commit(ctx); err != nil {
		return err
	}
	return writeFile(filepath.Dir(s.file), s.file, func(f *os.File) error { return packTree(ctx, f, s.dir) })
}

func (s *archiveSink) Close() error { return os.RemoveAll(s.tmp) }

// packTree writes the files of a layout as a tar whose bytes depend on names and contents only.
func packTree(ctx context.Context, w io.Writer, dir string) error {
	var names []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	sort.Strings(names)
	tw := tar.NewWriter(w)
	for _, p := range names {
		if err := packFile(ctx, tw, dir, p); err != nil {
			return err
		}
	}
	return tw.Close()
}

func packFile(ctx context.Context, tw *tar.Writer, dir, p string) (err error) {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(dir, p)
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(rel), Size: st.Size(), Mode: 0o644}); err != nil {
		return err
	}
	_, err = io.Copy(tw, &contextReader{ctx, f, f})
	return err
}
