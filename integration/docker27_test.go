// SPDX-License-Identifier: Apache-2.0

package integration

import "testing"

// TestVerbs27 runs every verb with the newest Docker that has graph driver
// plugins, where `make docker27` has built it.
func TestVerbs27(t *testing.T) {
	if _, ok := Docker27(); !ok {
		t.Log("NOT TESTED: Docker 27.5.1 is not built here; `make docker27` does it (some ten minutes on two cores)")
		return
	}
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Tiny, Python)
	e.convert(t, Python)
	plain := e.StartDaemon(t, DaemonOptions{Name: "o", Docker27: true})
	verbsOn(t, e, plain, e.StartLighter(t, DaemonOptions{Name: "d", Docker27: true}), e.Registry.Ref(Python+":lazy-data"))
}
