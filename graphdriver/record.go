// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Names inside a layer's folder layers/<id>; see the package text.
const (
	recordFile    = "layer.json"
	failedFile    = "failed"
	tarSplitFile  = "tar-split.zst"
	rawFile       = "layer.raw"
	restFile      = "rest"
	bootstrapFile = "image.boot"
	metaDir       = "meta"
)

type kind string

const (
	kindTar       kind = "tar"       // an ordinary layer: unpacked, with tar-split data
	kindBlob      kind = "blob"      // a Nydus data blob: kept as it came
	kindBootstrap kind = "bootstrap" // a lazy layer: its tar kept as it came, its tree mounted when used
)

// record is what layer.json says of a layer whose ApplyDiff ended well.
type record struct {
	Version    int      `json:"version"`
	ID         string   `json:"id"`
	Parent     string   `json:"parent,omitempty"`
	Kind       kind     `json:"kind"`
	DiffID     string   `json:"diffID"`               // "sha256:<hex>" of the stream that ApplyDiff got
	StreamSize int64    `json:"streamSize"`           // bytes of that stream
	Size       int64    `json:"size"`                 // what ApplyDiff reported
	TarSplit   string   `json:"tarSplit,omitempty"`   // "sha256:<hex>" of the tar-split file
	Bootstrap  string   `json:"bootstrap,omitempty"`  // "sha256:<hex>" of image.boot
	Meta       []string `json:"meta,omitempty"`       // names in meta/
	Repository string   `json:"repository,omitempty"` // the layer's own hint
}

const recordLimit = 1 << 20 // bytes

// encodeRecord renders a record as one line of JSON and one line with its SHA-256, so that no flipped bit goes unseen.
func encodeRecord(r *record) ([]byte, error) {
	j, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\nsha256:%x\n", j, sha256.Sum256(j)), nil
}

func decodeRecord(data []byte) (*record, error) {
	j, sum, ok := bytes.Cut(data, []byte("\n"))
	if !ok {
		return nil, fmt.Errorf("no checksum line")
	}
	if want := fmt.Sprintf("sha256:%x\n", sha256.Sum256(j)); string(sum) != want {
		return nil, fmt.Errorf("checksum is %.80q, content has %q", sum, want)
	}
	r := new(record)
	if err := json.Unmarshal(j, r); err != nil {
		return nil, err
	}
	if r.Version != 1 {
		return nil, fmt.Errorf("version %d is not known", r.Version)
	}
	switch r.Kind {
	case kindTar, kindBlob, kindBootstrap:
	default:
		return nil, fmt.Errorf("kind %q is not known", r.Kind)
	}
	return r, nil
}

// layer is what the driver knows in memory of a folder layers/<id>.
type layer struct {
	*record       // nil when bad is set
	bad     error // why the layer can't be used: not complete, or its record is damaged
	begun   bool  // ApplyDiff was begun and did not end well, or is at work
	busy    bool  // it is at work in this process
	lazy    *lazyLayer
}

func (d *Driver) layerDir(id string) string { return filepath.Join(d.root, "layers", id) }

// loadLayer reads what layers/<id> says. Damage is told by layer.bad.
func (d *Driver) loadLayer(id string) *layer {
	path := filepath.Join(d.layerDir(id), recordFile)
	data, err := readFileLimit(path, recordLimit)
	if os.IsNotExist(err) {
		why := "the process ended before it was complete"
		if text, err := readFileLimit(filepath.Join(d.layerDir(id), failedFile), recordLimit); err == nil {
			why = strings.TrimSpace(string(text))
		}
		return &layer{begun: true, bad: fmt.Errorf("layer %s: ApplyDiff was started and did not end well (%s); remove the layer, then pull or build it again", id, why)}
	}
	var r *record
	if err == nil {
		r, err = decodeRecord(data)
	}
	if err == nil && r.ID != id {
		err = fmt.Errorf("it is of layer %.140q", r.ID)
	}
	if err != nil {
		return &layer{bad: fmt.Errorf("layer %s: record %s is damaged: %w; remove the image and pull it again", id, path, err)}
	}
	l := &layer{record: r}
	if r.Kind == kindBootstrap {
		l.lazy = &lazyLayer{d: d, id: id, record: r, users: make(map[string]int)}
	}
	return l
}

// setLayer enters what is known of a layer; nil forgets it. d.mu is held.
func (d *Driver) setLayer(id string, l *layer) {
	if old := d.layers[id]; old != nil && (old.bad != nil || old.lazy != nil) {
		d.special--
	}
	if l == nil {
		delete(d.layers, id)
		return
	}
	d.layers[id] = l
	if l.bad != nil || l.lazy != nil {
		d.special++
	}
}

// lazyLayers lists the lazy layers of the store.
func (d *Driver) lazyLayers() []*lazyLayer {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*lazyLayer
	for _, l := range d.layers {
		if l.lazy != nil {
			out = append(out, l.lazy)
		}
	}
	return out
}

// storeRecord makes a finished layer durable: from here on it counts as applied.
func (d *Driver) storeRecord(r *record) error {
	data, err := encodeRecord(r)
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(d.layerDir(r.ID), recordFile), data)
}
