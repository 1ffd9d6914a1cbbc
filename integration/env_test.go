// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"
)

// The servers themselves, with nothing of ours: an ordinary image on overlay2.
func TestOrdinaryDocker(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Tiny, Debian)
	d := e.StartDaemon(t, DaemonOptions{})
	d.Docker(t, "pull", "-q", e.Registry.Ref(Debian))
	if out := d.Docker(t, "run", "--rm", "--network=none", e.Registry.Ref(Debian), "cat", "/etc/debian_version"); !strings.HasPrefix(out, "12.") {
		t.Errorf("run printed %q", out)
	}
}
