// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// layoutSink writes an OCI image layout. Blobs are complete when they get their
// names, and index.json is replaced once, at Commit, under a lock that other
// writers of the same directory wait for.
type layoutSink struct {
	dir       string
	fresh     bool // the directory was made by this sink
	mu        sync.Mutex
	made      []string        // files given their names by this sink
	entries   []v1.Descriptor // to name in index.json
	committed bool
}

func newLayoutSink(dir string) (*layoutSink, error) {
	s := &layoutSink{dir: dir}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); os.IsNotExist(err) {
		ents, err := os.ReadDir(dir)
		for _, e := range ents {
			if n := e.Name(); n != "blobs" && n != "oci-layout" && !strings.HasPrefix(n, unfinished) { // those of a writer that has not finished
				return nil, fmt.Errorf("%s: is neither empty nor an OCI image layout", dir)
			}
		}
		s.fresh = os.IsNotExist(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	sweep(dir)
	return s, nil
}

func (s *layoutSink) Put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) (bool, error) {
	name := filepath.Join(s.dir, filepath.FromSlash(blobPath(d.Digest)))
	if ok, err := s.has(ctx, d); ok || err != nil {
		return false, err
	}
	r, err := open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	v := verified(r, d)
	err = writeFile(s.dir, name, func(f *os.File) error {
		_, err := io.Copy(f, &contextReader{ctx, v, r})
		return err
	})
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.made = append(s.made, name)
	}
	return true, err
}

// has says whether the blob is there and whole; a damaged one is to be replaced.
func (s *layoutSink) has(ctx context.Context, d v1.Descriptor) (bool, error) {
	b, err := dirTree(s.dir).open(blobPath(d.Digest))
	if err != nil {
		return false, nil
	}
	defer b.Close()
	if b.Size() != d.Size {
		return false, nil
	}
	_, err = io.Copy(io.Discard, &contextReader{ctx, verified(io.NopCloser(io.NewSectionReader(b, 0, b.Size())), d), b})
	if errors.Is(err, ErrDigest) {
		return false, nil
	}
	return err == nil, err
}

// Unfinished files lie in a layout's own directory, where no reader of blobs
// meets what a killed writer left; later writers sweep what is old.
const (
	unfinished = ".tmp-"
	staleAfter = 24 * time.Hour
)

func sweep(dir string) {
	ents, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range ents {
		if st, err := e.Info(); err == nil && strings.HasPrefix(e.Name(), unfinished) && time.Since(st.ModTime()) > staleAfter {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// writeFile gives name its content all at once, by a temporary file in dir, on
// the same file system, and rename.
func writeFile(dir, name string, fill func(*os.File) error) (err error) {
	f, err := os.CreateTemp(dir, unfinished)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = fill(f); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func (s *layoutSink) writeBytes(name string, b []byte) error {
	return writeFile(s.dir, name, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

func (s *layoutSink) PutManifest(_ context.Context, m Manifest, tags ...string) error {
	name := filepath.Join(s.dir, filepath.FromSlash(blobPath(m.Digest)))
	if err := s.writeBytes(name, m.Raw); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = append(s.made, name)
	for _, t := range tags {
		d := m.Descriptor()
		d.Annotations = map[string]string{refName: t}
		s.entries = append(s.entries, d)
	}
	if subject, kind := subjectOf(m); len(tags) == 0 && subject != (v1.Hash{}) { // found there by who reads the layout
		d := m.Descriptor()
		d.ArtifactType = kind
		s.entries = append(s.entries, d)
	}
	return nil
}

// Commit names the manifests in index.json, in place of entries of the same tag.
func (s *layoutSink) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lock, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("%s: lock: %w", s.dir, err)
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	raw, err := os.ReadFile(filepath.Join(s.dir, "index.json"))
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("%s: index.json: %w", s.dir, err)
	}
	index.Manifests = replaceTags(index.Manifests, s.entries)
	if raw, err = json.Marshal(index); err != nil {
		return err
	}
	if err := s.writeBytes(filepath.Join(s.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := s.writeBytes(filepath.Join(s.dir, "index.json"), raw); err != nil {
		return err
	}
	s.committed, s.entries = true, nil
	return nil
}

func replaceTags(old, entries []v1.Descriptor) []v1.Descriptor {
	named, unnamed := map[string]bool{}, map[v1.Hash]bool{}
	for _, e := range entries {
		if n, ok := e.Annotations[refName]; ok {
			named[n] = true
		} else {
			unnamed[e.Digest] = true
		}
	}
	out := []v1.Descriptor{}
	for _, d := range old {
		if n, ok := d.Annotations[refName]; ok && !named[n] || !ok && !unnamed[d.Digest] {
			out = append(out, d)
		}
	}
	return append(out, entries...)
}

// Close takes back what was put into a directory that this sink made and never
// committed. In a layout that was there before, complete blobs stay: another
// writer may have found them already, and the next run does.
func (s *layoutSink) Close() error {
	if s.committed || !s.fresh {
		return nil
	}
	for _, name := range s.made {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	// A directory that another writer uses is not empty, and stays.
	for _, dir := range []string{filepath.Join(s.dir, "blobs", "sha256"), filepath.Join(s.dir, "blobs"), s.dir} {
		if os.Remove(dir) != nil {
			break
		}
	}
	return nil
}
