// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"lighter/format"
)

// errOrdinary: what began like a bootstrap layer is an ordinary one.
var errOrdinary = errors.New("no bootstrap layer")

const hintLimit = 64 << 10 // bytes of image/lighter.json

// applyBootstrap takes a stream that begins like a bootstrap layer's tar. It is kept as it came; if it turns out to be
// ordinary, what was kept is read again.
func (s *store) applyBootstrap(r *record, in *stream) error {
	dir := s.d.layerDir(r.ID)
	raw, err := os.OpenFile(filepath.Join(dir, rawFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer raw.Close()
	err = s.readBootstrap(r, io.TeeReader(in, raw))
	if err == nil {
		_, err = io.Copy(raw, in)
	}
	if errors.Is(err, errOrdinary) {
		return s.ordinaryAfterAll(r, raw, in)
	}
	if err != nil {
		return err
	}
	if _, err := in.finish(); err != nil {
		return err
	}
	if isNydusBlob(in.tail) { // without compression, and its first file is such a tar
		if err := errors.Join(s.forgetBootstrap(r), raw.Sync()); err != nil {
			return err
		}
		return s.keepBlob(r, in)
	}
	if s.mapped() {
		return errors.New("the image is accelerated, which does not go together with dockerd's userns-remap: pull the ordinary image")
	}
	if err := raw.Sync(); err != nil {
		return err
	}
	r.Kind, r.Size = kindBootstrap, in.size
	return s.markReadOnly(r.ID)
}

// readBootstrap unpacks a bootstrap layer's files into the layer's folder. Any other tar is errOrdinary.
func (s *store) readBootstrap(r *record, in io.Reader) error {
	dir := s.d.layerDir(r.ID)
	tr := tar.NewReader(in)
	seen := make(map[string]bool)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, tar.ErrHeader) || err == io.ErrUnexpectedEOF {
			return fmt.Errorf("%w: %w", errOrdinary, err)
		}
		if err != nil {
			return err
		}
		name := bootstrapEntry(hdr.Name)
		switch {
		case name == "" || seen[name] && name != ".":
			return errOrdinary
		case name == ".":
			if hdr.Typeflag != tar.TypeDir {
				return errOrdinary
			}
			continue
		case hdr.Typeflag != tar.TypeReg || !fileContent(hdr):
			return errOrdinary
		}
		seen[name] = true
		switch {
		case name == bootstrapFile:
			r.Bootstrap, err = storeFile(filepath.Join(dir, name), tr)
		case metaName.MatchString(name):
			err = s.storeMeta(r, name, tr)
		case name == "lighter.json":
			r.Repository, err = readHint(tr)
		}
		if err != nil {
			return fmt.Errorf("bootstrap layer: %s: %w", hdr.Name, err)
		}
	}
	if !seen[bootstrapFile] {
		return errOrdinary
	}
	return checkBootstrap(filepath.Join(dir, bootstrapFile))
}

// checkBootstrap opens a bootstrap, so that one that can't be mounted is refused when it is pulled.
func checkBootstrap(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	if !format.IsBootstrap(head[:n]) {
		return errOrdinary
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := format.Open(f, fi.Size()); err != nil {
		return fmt.Errorf("bootstrap layer: %s: %w", bootstrapFile, err)
	}
	return nil
}

func (s *store) storeMeta(r *record, name string, in io.Reader) error {
	dir := filepath.Join(s.d.layerDir(r.ID), metaDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	_, err := storeFile(filepath.Join(dir, name), in)
	r.Meta = append(r.Meta, name)
	return err
}

// readHint reads image/lighter.json. One that says nothing useful is no error: it is only a hint.
func readHint(in io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(in, hintLimit))
	if err != nil {
		return "", err
	}
	var hint struct {
		Version    int    `json:"version"`
		Repository string `json:"repository"`
	}
	if json.Unmarshal(data, &hint) != nil || hint.Version != 1 || !validRepository(hint.Repository) {
		return "", nil
	}
	return hint.Repository, nil
}

// storeFile writes a file durably, and returns its digest.
func storeFile(path string, in io.Reader) (string, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, h)}, in, make([]byte, 128<<10))
	return digestOf(h.Sum(nil)), errors.Join(err, f.Sync(), f.Close())
}

// ordinaryAfterAll unpacks what applyBootstrap has kept so far and the rest of the stream as an ordinary layer.
func (s *store) ordinaryAfterAll(r *record, raw *os.File, in *stream) error {
	if _, err := raw.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := errors.Join(s.forgetBootstrap(r), os.Remove(raw.Name())); err != nil {
		return err
	}
	return s.applyTar(r, io.MultiReader(raw, in), in)
}

// forgetBootstrap takes back what readBootstrap has done.
func (s *store) forgetBootstrap(r *record) error {
	*r = record{Version: r.Version, ID: r.ID, Parent: r.Parent}
	dir := s.d.layerDir(r.ID)
	return errors.Join(os.RemoveAll(filepath.Join(dir, bootstrapFile)), os.RemoveAll(filepath.Join(dir, metaDir)))
}

// markReadOnly makes overlay2 take the layer as a lower directory also when it is asked for the layer itself: its
// directory will be a mount that can't be written to. overlay2 leaves this mark when a layer gets its first child.
func (s *store) markReadOnly(id string) error {
	return writeFileAtomic(filepath.Join(s.d.overlayDir(id), "committed"), nil)
}

// spec says what to mount for a lazy layer, as things are now.
func (d *Driver) spec(r *record) LazyLayer {
	l := LazyLayer{
		Bootstrap:    filepath.Join(d.layerDir(r.ID), bootstrapFile),
		Digest:       r.Bootstrap,
		Repositories: repositories(d.o.DockerImageDir, r.DiffID, r.Repository),
	}
	if len(r.Meta) > 0 {
		l.MetaDir = filepath.Join(d.layerDir(r.ID), metaDir)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, other := range d.layers {
		if other.record != nil && other.Kind == kindBlob {
			l.BlobDirs = []string{d.blobDir()}
			break
		}
	}
	return l
}
