// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"path/filepath"
	"testing"

	"lighter/format"
	"lighter/format/formattest"
)

// TestBuildGolden builds and merges the golden ordinary image and compares
// the result with its listing.
func TestBuildGolden(t *testing.T) {
	want, err := formattest.ReadListing(filepath.Join(formattest.Golden(t), "oci.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	zstd, lz4, none, gzip := format.Zstd, format.LZ4Block, format.None, format.Gzip
	for name, o := range map[string]format.BuildOptions{
		"zstd": {Compressor: &zstd}, "lz4_block": {Compressor: &lz4}, "none": {Compressor: &none}, "gzip": {Compressor: &gzip},
		"sha256": {Digester: format.SHA256}, "4 KiB": {ChunkSize: 4096}, "16 MiB": {ChunkSize: 1 << 24},
		"batch": {BatchSize: 1 << 20}, "batch of 4 KiB": {ChunkSize: 4096, BatchSize: 4096}, "batch none": {BatchSize: 1 << 16, Compressor: &none},
		"v5": {Version: 5}, "v5 lz4_block": {Version: 5, Compressor: &lz4}, "v5 none": {Version: 5, Compressor: &none},
		"v5 gzip": {Version: 5, Compressor: &gzip}, "v5 sha256": {Version: 5, Digester: format.SHA256}, "v5 4 KiB": {Version: 5, ChunkSize: 4096},
	} {
		t.Run(name, func(t *testing.T) {
			im, err := formattest.Build(formattest.GoldenLayers(t, "src"), o)
			if err != nil {
				t.Fatal(err)
			}
			if d := formattest.Diff(want, im.List(t)); d != "" {
				t.Error(d)
			}
			im.Check(t)
			im.CheckWithPeers(t, want)
		})
	}
}
