// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"lighter/format/formattest"
)

// memory is a Source of blobs in memory, with a manifest that lists what it is told.
type memory map[v1.Hash][]byte

func (m memory) Manifest(_ context.Context, d v1.Descriptor) (Manifest, error) {
	return checkedManifest(m[d.Digest], d)
}

func (m memory) ReaderAt(_ context.Context, d v1.Descriptor) (Blob, error) {
	b, ok := m[d.Digest]
	if !ok {
		return nil, ErrNotFound
	}
	return sectionBlob{io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))}, nil
}

func (m memory) Open(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	b, err := m.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return verified(io.NopCloser(io.NewSectionReader(b, 0, b.Size())), d), nil
}

func (m memory) Close() error { return nil }

func goldenBlob(t testing.TB, suffix string) []byte {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(formattest.Golden(t), "oci", "blobs", "sha256", suffix+"*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", suffix, found, err)
	}
	raw, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// FuzzUnpackBootstrap holds that unpacking stays in its directory and ends.
func FuzzUnpackBootstrap(f *testing.F) {
	f.Add(goldenBlob(f, "2b99b9f728fc"))
	f.Add(goldenBlob(f, "0e10d95341be"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		b := newBlob(raw, types.OCILayer)
		u, err := UnpackBootstrap(context.Background(), memory{b.desc.Digest: raw}, b.desc, dir)
		if err != nil {
			return
		}
		for _, name := range append(files(t, dir), u.Bootstrap) {
			if filepath.Dir(name) != dir {
				t.Errorf("%s is outside", name)
			}
		}
	})
}

// FuzzIndex holds that whatever manifests say, looking at them gives an error or an image.
func FuzzIndex(f *testing.F) {
	f.Add(goldenBlob(f, "4e41ee043365"), goldenBlob(f, "756c3676efe4"))
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:`+strings.Repeat("0", 64)+`"}]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, raw, config []byte) {
		ctx := context.Background()
		m := memory{hashOf(raw): raw, hashOf(config): config}
		root, err := m.Manifest(ctx, v1.Descriptor{Digest: hashOf(raw)})
		if err != nil {
			return
		}
		all, err := candidates(ctx, m, root, func(v1.Platform) bool { return true })
		if err == nil && len(all) == 0 {
			t.Error("neither image nor error")
		}
		if c, err := parseConfig(config); err == nil {
			out, err := c.with(c.rootfs.DiffIDs, c.fullHistory(1, 0))
			if err != nil || !json.Valid(out) {
				t.Errorf("config is %q, %v", out, err)
			}
		}
		sink := &discard{}
		copyTree(ctx, m, sink, root, CopyOptions{}, "x")
	})
}

// discard is a Sink that reads what it is given.
type discard struct{}

func (discard) Put(_ context.Context, _ v1.Descriptor, open func() (io.ReadCloser, error)) (bool, error) {
	r, err := open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return true, err
}
func (discard) PutManifest(context.Context, Manifest, ...string) error { return nil }
func (discard) Commit(context.Context) error                           { return nil }
func (discard) Close() error                                           { return nil }

// FuzzArchive opens anything as either kind of archive.
func FuzzArchive(f *testing.F) {
	f.Add(packed(f, map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": `{"schemaVersion":2,"manifests":[]}`}))
	f.Add(packed(f, map[string]string{"manifest.json": `[{"Config":"c","RepoTags":["a:1"],"Layers":["l","m/../l"]}]`, "c": "{}", "l": "x"}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		name := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, k := range []Kind{KindOCIArchive, KindDockerArchive} {
			s, err := OpenSource(context.Background(), Reference{Kind: k, Path: name}, IOOptions{})
			if err != nil {
				continue
			}
			Check(context.Background(), s, CheckOptions{})
			s.Close()
		}
	})
}

func packed(t testing.TB, content map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	for n, c := range content {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := packTree(context.Background(), &buf, dir); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// FuzzReference holds that what is parsed prints as something that parses alike.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"oci:a:b", "oci-archive:a", "docker-archive:a:b:c", "h:1/a:b", "a@sha256:" + strings.Repeat("0", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s, false)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String(), false)
		if err != nil || again.Kind != r.Kind || again.Path != r.Path || again.Tag != r.Tag || again.Digest != r.Digest || again.Repository() != r.Repository() {
			t.Errorf("%q is %+v, prints as %q, which is %+v, %v", s, r, r.String(), again, err)
		}
	})
}
