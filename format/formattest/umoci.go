// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// UnpackWithUmoci unpacks the layers, uncompressed tars with the lowest first,
// with umoci and lists the result. It returns an error if umoci refuses them;
// ok is false when it is not installed.
func UnpackWithUmoci(t *testing.T, layers [][]byte) (l Listing, ok bool, err error) {
	t.Helper()
	tool := Peer(t, "umoci")
	if tool == "" {
		return nil, false, nil
	}
	dir := t.TempDir()
	layout, rootfs := filepath.Join(dir, "layout"), filepath.Join(dir, "rootfs")
	writeLayout(t, layout, layers)
	if _, err := run(t, tool, "raw", "unpack", "--image", layout+":test", rootfs); err != nil {
		return nil, true, err
	}
	l, err = ListDir(rootfs)
	return l, true, err
}

// writeLayout writes an OCI layout with one image, tagged test.
func writeLayout(t *testing.T, dir string, layers [][]byte) {
	t.Helper()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	blob := func(mediaType string, p []byte) object {
		id := fmt.Sprintf("%x", sha256.Sum256(p))
		writeFile(t, blobs, id, p)
		return object{"mediaType": mediaType, "digest": "sha256:" + id, "size": len(p)}
	}
	marshal := func(v any) []byte {
		p, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	const prefix = "application/vnd.oci.image."
	var descriptors []object
	var diffIDs []any
	for _, l := range layers {
		d := blob(prefix+"layer.v1.tar", l)
		descriptors, diffIDs = append(descriptors, d), append(diffIDs, d["digest"])
	}
	config := blob(prefix+"config.v1+json", marshal(object{"architecture": "amd64", "os": "linux", "config": object{},
		"rootfs": object{"type": "layers", "diff_ids": diffIDs}}))
	manifest := blob(prefix+"manifest.v1+json", marshal(object{"schemaVersion": 2, "mediaType": prefix + "manifest.v1+json",
		"config": config, "layers": descriptors}))
	manifest["annotations"] = object{"org.opencontainers.image.ref.name": "test"}
	writeFile(t, dir, "index.json", marshal(object{"schemaVersion": 2, "manifests": []object{manifest}}))
	writeFile(t, dir, "oci-layout", marshal(object{"imageLayoutVersion": "1.0.0"}))
}
