// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refer stores a manifest whose subject is the given one.
func refer(t *testing.T, sink Sink, subject v1.Descriptor, kind string) v1.Descriptor {
	t.Helper()
	empty := []byte("{}")
	config := v1.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: hashOf(empty), Size: 2}
	if _, err := sink.Put(context.Background(), config, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(empty)), nil }); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: kind, Config: config, Layers: []v1.Descriptor{config}, Subject: &subject})
	if err != nil {
		t.Fatal(err)
	}
	m := NewManifest(raw, types.OCIManifestSchema1)
	if err := sink.PutManifest(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	return m.Descriptor()
}

// What refers to an image, and to that, comes along: from registry to registry,
// to a layout and back.
func TestCopyReferrers(t *testing.T) {
	ctx := context.Background()
	from := testRegistry(t, nil) + "/app:1"
	convertTo(t, goldenLayout(t, "src"), from, Options{})
	_, src := open(t, from)
	root, err := src.Manifest(ctx, v1.Descriptor{})
	if err != nil {
		t.Fatal(err)
	}
	sink, err := OpenSink(ctx, parse(t, from), IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	bill := refer(t, sink, root.Descriptor(), "application/spdx+json")
	signature := refer(t, sink, bill, "application/vnd.example.signature")
	want := map[v1.Hash]v1.Hash{root.Digest: bill.Digest, bill.Digest: signature.Digest}

	for _, to := range []string{testRegistry(t, nil) + "/app:1", "oci:" + t.TempDir() + ":1", testRegistry(t, nil) + "/back:1"} {
		_, src := open(t, from)
		sink, err := OpenSink(ctx, parse(t, to), IOOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time adds nothing
			res, err := Copy(ctx, src, sink, "1", CopyOptions{})
			if err != nil || res.Referrers != 2 {
				t.Fatalf("copy to %s: %+v, %v", to, res, err)
			}
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
		_, got := open(t, to)
		for subject, referrer := range want {
			ds, err := got.(referrers).Referrers(ctx, subject)
			if err != nil || len(ds) != 1 || ds[0].Digest != referrer {
				t.Errorf("%s: referrers of %s: %v, %v", to, subject, ds, err)
			}
		}
		if back, err := got.Manifest(ctx, v1.Descriptor{}); err != nil || back.Digest != root.Digest {
			t.Errorf("%s: image %s, %v", to, back.Digest, err)
		}
		from = to
	}
}
