// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"lighter/convert"
)

const someLayer = "sha256:0123456789abcdef"

func layerEvents() []convert.Event {
	return []convert.Event{
		{Phase: convert.PhaseBuild, Layer: someLayer, Done: 500, Total: 1000},
		{Phase: convert.PhaseBuild, Layer: someLayer, Done: 900, Total: 1000},
		{Phase: convert.PhaseUpload, Layer: someLayer, Done: 10, Total: 40},
		{Phase: convert.PhaseNote, Text: "a note"},
		{Phase: convert.PhaseDone, Layer: someLayer, Done: 1000, Total: 1000},
	}
}

func shownAs(t *testing.T, mode string) string {
	t.Helper()
	var out bytes.Buffer
	p := &progress{w: &out, mode: mode, state: map[string]convert.Event{}}
	for _, e := range layerEvents() {
		p.event(e)
	}
	p.close()
	p.event(layerEvents()[0])
	p.close()
	return out.String()
}

func TestProgressPlain(t *testing.T) {
	want := "0123456789ab build  1 kB\n0123456789ab upload 40 B\na note\n0123456789ab done   1 kB\n"
	if got := shownAs(t, "plain"); got != want {
		t.Errorf("shows %q, not %q", got, want)
	}
}

func TestProgressJSON(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(shownAs(t, "json")), "\n")
	if len(lines) != len(layerEvents()) {
		t.Errorf("%d lines for %d events", len(lines), len(layerEvents()))
	}
	for i, l := range lines {
		var e convert.Event
		if err := json.Unmarshal([]byte(l), &e); err != nil || e != layerEvents()[i] {
			t.Errorf("line %q is %+v, %v", l, e, err)
		}
	}
}

func TestProgressBars(t *testing.T) {
	got := shownAs(t, "bars")
	if !strings.Contains(got, "[###############               ] 1 kB") || !strings.Contains(got, "\x1b[1A\x1b[J") {
		t.Errorf("shows %q", got)
	}
	if last := strings.LastIndex(got, "\x1b[J"); !strings.HasPrefix(got[last+3:], "0123456789ab done") || !strings.Contains(got, "a note\n") {
		t.Errorf("ends with %q", got[last:])
	}
	var file bytes.Buffer
	if p, err := newProgress("auto", &file); err != nil || p.mode != "plain" {
		t.Errorf("bars without a terminal: %v, %v", p, err)
	}
}
