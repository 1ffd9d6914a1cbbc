// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/vbatts/tar-split/tar/storage"
)

// ApplyDiff stores a layer from its uncompressed stream, and returns its size in bytes as Docker shows it. What kind of
// layer it is, the stream tells.
//
// It works once per layer. A second call is refused until Remove, however the first one ended: Docker repeats a call that
// was cut off with what is left of the stream, which would make a layer without its beginning.
func (d *Driver) ApplyDiff(id, parent string, diff io.Reader) (size int64, err error) {
	if err := errors.Join(checkID(id), checkParent(parent)); err != nil {
		return 0, err
	}
	s, err := d.open()
	if err != nil {
		return 0, err
	}
	defer d.ids.lock(id)()
	if !s.overlay.Exists(id) {
		return 0, fmt.Errorf("layer %s: there is no such layer to apply a diff to", id)
	}
	if err := d.beginApply(id); err != nil {
		return 0, err
	}
	fault("apply-begun")
	in := newStream(diff)
	defer in.stop()
	r, err := s.apply(id, parent, in)
	if err == nil {
		fault("apply-record")
		err = d.storeRecord(r)
		fault("record-written")
	}
	if err != nil {
		err = fmt.Errorf("layer %s: apply diff: %w", id, err)
		d.endApply(id, err)
		return 0, err
	}
	d.endApply(id, nil)
	fault("apply-done")
	return r.Size, nil
}

// beginApply marks on disk that an ApplyDiff was begun: the folder without a record is the mark.
func (d *Driver) beginApply(id string) error {
	d.mu.Lock()
	l := d.layers[id]
	if l == nil {
		d.setLayer(id, &layer{begun: true, busy: true, bad: fmt.Errorf("layer %s: ApplyDiff is at work", id)})
	}
	d.mu.Unlock()
	switch {
	case l == nil:
	case l.bad != nil:
		return fmt.Errorf("refused, or the layer could lack its beginning: %w", l.bad)
	default:
		return fmt.Errorf("layer %s: refused, or the layer could lack its beginning: a diff was applied before; remove the layer first", id)
	}
	// Not synced: a power cut takes Docker, too, and with it what is left of the stream.
	if err := os.Mkdir(d.layerDir(id), 0o700); err != nil {
		d.mu.Lock()
		d.setLayer(id, nil)
		d.mu.Unlock()
		return fmt.Errorf("layer %s: mark the start of ApplyDiff: %w", id, err)
	}
	return nil
}

// endApply enters how it ended. Why it failed is kept, since the caller may be gone and ask again.
func (d *Driver) endApply(id string, failed error) {
	if failed != nil {
		text := []byte(failed.Error() + "\n")
		if err := os.WriteFile(filepath.Join(d.layerDir(id), failedFile), text, 0o600); err != nil {
			d.log.Warn("keep why ApplyDiff failed", "layer", id, "error", err)
		}
	}
	l := d.loadLayer(id)
	d.mu.Lock()
	d.setLayer(id, l)
	d.mu.Unlock()
}

// apply finds out the kind of layer and stores it.
func (s *store) apply(id, parent string, in *stream) (*record, error) {
	r := &record{Version: 1, ID: id, Parent: parent}
	head, err := in.head(tarBlock)
	if err != nil {
		return nil, err
	}
	switch {
	case len(head) == tarBlock && !tarChecksum(head):
		err = s.applyOpaque(r, in)
	case len(head) == tarBlock && bootstrapEntry(headerName(head)) != "":
		err = s.applyBootstrap(r, in)
	default:
		err = s.applyTar(r, in, in)
	}
	if err != nil {
		return nil, err
	}
	r.DiffID, err = in.finish()
	r.StreamSize = in.size
	return r, err
}

// headerName is a tar header's short name. Long names, which have a header of their own, don't occur in what it is for.
func headerName(h []byte) string {
	name, _, _ := bytes.Cut(h[:100], []byte{0})
	return string(name)
}

// applyTar unpacks an ordinary layer, whose tar is src, into overlay2's directory while splitting it.
func (s *store) applyTar(r *record, src io.Reader, in *stream) (err error) {
	r.Kind = kindTar
	path := filepath.Join(s.d.layerDir(r.ID), tarSplitFile)
	// Not synced, like the unpacked files: what a power cut takes of either, Diff notices.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	enc, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	u, err := newUnpacker(s.d.diffDir(r.ID), s.idMap)
	if err != nil {
		return err
	}
	defer u.close()
	err = errors.Join(disassemble(src, storage.NewJSONPacker(enc), u), enc.Close())
	if notTar := (*notTarError)(nil); errors.As(err, &notTar) {
		return s.blobAfterAll(r, in, io.MultiReader(bytes.NewReader(notTar.pending), src), err)
	}
	if err != nil {
		return err
	}
	fault("apply-split")
	if r.TarSplit, err = fileDigest(path); err != nil {
		return err
	}
	if _, err := in.finish(); err != nil {
		return err
	}
	if isNydusBlob(in.tail) {
		return s.blobFromTar(r, in, nil)
	}
	r.Size, err = u.finish()
	return err
}
