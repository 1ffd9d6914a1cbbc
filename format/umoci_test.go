// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"testing"

	. "lighter/format/formattest"
)

// notUmoci holds the cases in which umoci differs from Docker, which decides.
var notUmoci = map[string]string{
	"hard link takes attributes":     "umoci leaves the attributes of the first entry",
	"xattrs":                         "umoci gives up at user.x on a FIFO",
	"whiteouts of the lowest layer":  "umoci makes no parent for a whiteout",
	"device 0:0 is a whiteout":       "umoci does not unpack for overlayfs",
	"implicit directory over a file": "umoci gives up",
	"link to a lower file":           "umoci does not copy up: other names of the lower file join",
}

// TestCorpusUmoci compares what the corpus must read as with what umoci
// unpacks.
func TestCorpusUmoci(t *testing.T) {
	compared := 0
	for _, c := range Corpus() {
		if _, differs := notUmoci[c.Name]; differs {
			continue
		}
		got, ok, err := UnpackWithUmoci(t, tars(t, c))
		if !ok {
			return
		}
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		} else if s := Short(got); s != c.Want {
			t.Errorf("%s: umoci unpacks\n%swe want\n%s", c.Name, s, c.Want)
		}
		compared++
	}
	if want := len(Corpus()) - len(notUmoci); compared != want {
		t.Errorf("%d cases compared, want %d: a name in notUmoci is not in the corpus", compared, want)
	}
}
