// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// blobDir has the data blobs that came as layers, named by their hex digest, each a hard link to its layer's layer.raw.
func (d *Driver) blobDir() string { return filepath.Join(d.root, "blobs") }

// applyOpaque takes a stream that doesn't begin with a tar header. Only its end tells what it is.
func (s *store) applyOpaque(r *record, in *stream) error {
	path := filepath.Join(s.d.layerDir(r.ID), rawFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, in); err != nil {
		return err
	}
	if isNydusBlob(in.tail) {
		if err := f.Sync(); err != nil {
			return err
		}
		return s.keepBlob(r, in)
	}
	// An empty archive with something behind its end, or no archive at all: the ordinary way finds out.
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return s.applyTar(r, bufio.NewReaderSize(f, blockSize), in)
}

// keepBlob enters the stored stream of r as a data blob.
func (s *store) keepBlob(r *record, in *stream) error {
	digest, err := in.finish()
	if err != nil {
		return err
	}
	r.Kind, r.Size = kindBlob, in.size
	return s.d.linkBlob(r.ID, digest)
}

// linkBlob makes a layer's raw stream, which was hashed a moment ago, known in the directory of blobs. If the blob is
// there already, the layer becomes a link to it; one that is damaged is replaced.
func (d *Driver) linkBlob(id, digest string) error {
	d.blobMu.Lock()
	defer d.blobMu.Unlock()
	blob := filepath.Join(d.blobDir(), strings.TrimPrefix(digest, "sha256:"))
	raw := filepath.Join(d.layerDir(id), rawFile)
	fault("apply-blob")
	if checkFileDigest(blob, digest) == nil {
		return replaceByLink(blob, raw)
	}
	if err := replaceByLink(raw, blob); err != nil {
		return err
	}
	return syncDir(d.blobDir())
}

// replaceByLink makes to a hard link of from, whether or not to is there.
func replaceByLink(from, to string) error {
	tmp := to + ".tmp"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Link(from, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	// Of two links to one file, rename leaves both.
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// unlinkBlob forgets a blob once no other layer is it. The caller has taken r out of d.layers.
func (d *Driver) unlinkBlob(r *record) error {
	d.blobMu.Lock()
	defer d.blobMu.Unlock()
	if d.otherBlob(r) {
		return nil
	}
	err := os.Remove(filepath.Join(d.blobDir(), strings.TrimPrefix(r.DiffID, "sha256:")))
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// otherBlob tells whether another layer is the same blob.
func (d *Driver) otherBlob(r *record) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, l := range d.layers {
		if id != r.ID && l.record != nil && l.Kind == kindBlob && l.DiffID == r.DiffID {
			return true
		}
	}
	return false
}

// blobAfterAll reads on when a stream can't be split as a tar from some point on. If its end shows that it is a data blob,
// all is well, otherwise the error stands.
func (s *store) blobAfterAll(r *record, in *stream, rest io.Reader, notTar error) error {
	f, err := os.OpenFile(filepath.Join(s.d.layerDir(r.ID), restFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(notTar, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := io.Copy(f, rest); err != nil {
		return errors.Join(notTar, err)
	}
	if _, err := in.finish(); err != nil {
		return errors.Join(notTar, err)
	}
	if !isNydusBlob(in.tail) {
		return notTar
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return s.blobFromTar(r, in, f)
}

// blobFromTar makes a data blob of what was taken for a tar: a blob without compression begins like the archive that is
// its first file. The stream is assembled again from what was unpacked and rest, which may be nil, and its digest compared.
func (s *store) blobFromTar(r *record, in *stream, rest io.Reader) error {
	digest, err := in.finish()
	if err != nil {
		return err
	}
	split := filepath.Join(s.d.layerDir(r.ID), tarSplitFile)
	if r.TarSplit, err = fileDigest(split); err != nil {
		return err
	}
	unpacked, err := s.d.assemble(r)
	if err != nil {
		return err
	}
	defer unpacked.Close()
	var whole io.Reader = unpacked
	if rest != nil {
		whole = io.MultiReader(unpacked, rest)
	}
	f, err := os.OpenFile(filepath.Join(s.d.layerDir(r.ID), rawFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, newVerifyReader(io.NopCloser(whole), "assembled stream", digest, in.size)); err != nil {
		return fmt.Errorf("data blob that begins like a tar (convert the image with compression): %w", err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := errors.Join(s.newDiffDir(r.ID), os.Remove(split)); err != nil {
		return err
	}
	r.TarSplit = ""
	return s.keepBlob(r, in)
}

// newDiffDir replaces a layer's unpacked files by an empty directory like the one Create made.
func (s *store) newDiffDir(id string) error {
	dir := s.d.diffDir(id)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	uid, gid := s.idMap.RootPair()
	return errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, uid, gid))
}
