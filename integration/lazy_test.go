// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"
)

// convert converts a test image in the registry; the result has the tag "lazy" there.
func (e *Env) convert(t TB, name string) (ref string) {
	t.Helper()
	ref = e.Registry.Ref(name + ":lazy")
	e.Lighter(t, "convert", e.Registry.Ref(name), ref)
	return ref
}

// A lazy image: what is pulled is the bootstrap alone, and the container sees every file.
func TestPluginLazy(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	ref := e.convert(t, Python)
	d := e.StartLighter(t, DaemonOptions{})
	d.Docker(t, "pull", "-q", ref)
	if out := d.Docker(t, "run", "--rm", "--network=none", ref, "python3", "-c", "import numpy; print(numpy.arange(4).sum())"); strings.TrimSpace(out) != "6" {
		t.Errorf("run printed %q", out)
	}
	var status map[string]any
	d.Control(t, "GET", "/v1/status", &status)
	t.Log(status)
}
