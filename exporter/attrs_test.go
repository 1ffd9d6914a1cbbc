// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"strings"
	"testing"

	"lighter/convert"
	"lighter/format"
)

func TestParseAttrs(t *testing.T) {
	o, rest, err := parseAttrs(map[string]string{
		"compression": "nydus", "force-compression": "", "compression-level": "3", "oci-mediatypes": "true",
		"name": "a.example/b:1,c", "push": "", "registry.insecure": "1", "annotation.k": "v", "source-date-epoch": "5",
		"rewrite-timestamp": "true", "nydus-compressor": "zstd", "nydus-chunk-size": "0x200000", "nydus-fs-version": "6", "nydus-prefetch": "/a:/b",
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	if o.build.Level != 3 || *o.build.Compressor != format.Zstd || o.build.ChunkSize != 2<<20 || !o.rewrite || o.index != convert.IndexLazy {
		t.Errorf("options %+v", o)
	}
	if len(o.names) != 2 || !o.push || !o.store || !o.insecure || o.repository() != "a.example/b" || len(o.prefetch) != 2 {
		t.Errorf("options %+v", o)
	}
	if len(rest) != 5 || rest["name"] != "a.example/b:1,c" || rest["store"] != "false" || rest["annotation.k"] != "v" || rest["source-date-epoch"] != "5" || rest["oci-mediatypes"] != "true" {
		t.Errorf("BuildKit is given %v", rest)
	}
}

// TestParseAttrsOfArchive leaves name and push to BuildKit where it writes the archive.
func TestParseAttrsOfArchive(t *testing.T) {
	o, rest, err := parseAttrs(map[string]string{"compression": "nydus", "name": "a", "tar": "false"}, false)
	if err != nil {
		t.Fatal(err)
	}
	if o.index != convert.IndexNone || rest["name"] != "a" || rest["tar"] != "false" || len(o.names) != 1 {
		t.Errorf("options %+v, rest %v", o, rest)
	}
}

func TestParseAttrsRefuses(t *testing.T) {
	for attr, want := range map[string]string{
		"force-compression=perhaps": "neither true nor false",
		"compression-level=fast":    "no whole number",
		"oci-mediatypes=false":      "OCI media types only",
		"unpack=":                   "without unpacking",
		"nydus-compressor=brotli":   "none of [zstd lz4_block gzip none]",
		"nydus-chunk-size=5000":     "no power of two",
		"nydus-chunk-size=33554432": "no power of two",
		"nydus-fs-version=9":        "no version",
		"nydus-chunk-dict=x":        "unsupported",
		"nydus-prefetch=a":          "does not begin with a slash",
		"nydus-index=eager":         "none of lazy, merged, none",
		"nydus-compresor=zstd":      "is unknown; there are nydus-chunk-dict, nydus-chunk-size, nydus-compressor",
		"push=maybe":                "neither true nor false",
		"compression-level=99":      "level",
	} {
		name, value, _ := strings.Cut(attr, "=")
		_, _, err := parseAttrs(map[string]string{"compression": "nydus", name: value}, true)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) && name != "compression-level" {
			t.Errorf("%s: error %v, want one with %q", attr, err, want)
		}
	}
	if _, _, err := parseAttrs(map[string]string{"nydus-index": "lazy"}, false); err == nil {
		t.Error("an archive takes nydus-index=lazy")
	}
}
