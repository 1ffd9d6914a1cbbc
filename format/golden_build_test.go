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
	for _, c := range []format.Compressor{format.Zstd, format.LZ4Block, format.None} {
		t.Run(c.String(), func(t *testing.T) {
			im, err := formattest.Build(formattest.GoldenLayers(t, "src"), format.BuildOptions{Compressor: &c})
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
