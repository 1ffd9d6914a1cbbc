// SPDX-License-Identifier: Apache-2.0

package format

import "testing"

func TestCheckGolden(t *testing.T) {
	for _, g := range goldenImages(t) {
		t.Run(g.name, func(t *testing.T) {
			b, err := OpenBytes(g.boot)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Check(b, g.open, CheckOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			if want := uint64(len(readListing(t, g.listing))); r.Names != want {
				t.Errorf("%d names, want %d", r.Names, want)
			}
			if r.Verified != b.Info().Chunks || r.Verified == 0 {
				t.Errorf("%d of %d chunks verified", r.Verified, b.Info().Chunks)
			}
			t.Log(r)
		})
	}
}
