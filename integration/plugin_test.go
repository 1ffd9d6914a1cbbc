// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"
)

// An ordinary image through the plugin.
func TestPluginOrdinary(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Debian)
	d := e.StartLighter(t, DaemonOptions{})
	d.Docker(t, "pull", "-q", e.Registry.Ref(Debian))
	if out := d.Docker(t, "run", "--rm", "--network=none", e.Registry.Ref(Debian), "cat", "/etc/debian_version"); !strings.HasPrefix(out, "12.") {
		t.Errorf("run printed %q", out)
	}
}
