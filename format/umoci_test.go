// SPDX-License-Identifier: Apache-2.0

package format_test

import (
	"fmt"
	"testing"

	. "lighter/format/formattest"
)

// TestCorpusUmoci compares what the corpus must read as with what umoci
// unpacks.
func TestCorpusUmoci(t *testing.T) {
	compared := 0
	for _, c := range Corpus() {
		why := c.Differs[Umoci]
		got, ok, err := UnpackWithUmoci(t, tars(t, c))
		if !ok {
			return
		}
		differs := ""
		if err != nil {
			differs = err.Error()
		} else if s := Short(got); s != c.Want {
			differs = fmt.Sprintf("umoci unpacks\n%.2000swe want\n%.2000s", s, c.Want)
		}
		switch {
		case differs != "" && why == "":
			t.Errorf("%s: %s", c.Name, differs)
		case differs == "" && why != "":
			t.Errorf("%s: umoci does not differ, although %s", c.Name, why)
		case why == "":
			compared++
		}
	}
	t.Logf("umoci shows %d of %d cases as we do", compared, len(Corpus()))
}
