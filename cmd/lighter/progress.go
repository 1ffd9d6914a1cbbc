// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lighter/convert"
)

// progress shows events: bars on a terminal, else a line per layer and phase, or JSON lines.
type progress struct {
	w    io.Writer
	mode string // "bars", "plain", "json"

	mu     sync.Mutex
	order  []string
	state  map[string]convert.Event
	drawn  int // lines on the terminal
	last   time.Time
	closed bool
}

func newProgress(mode string, w io.Writer) (*progress, error) {
	p := &progress{w: w, mode: mode, state: map[string]convert.Event{}}
	switch mode {
	case "plain", "json":
	case "auto":
		p.mode = "plain"
		if isTerminal(w) {
			p.mode = "bars"
		}
	default:
		return nil, usagef("progress %q is none of auto, plain, json", mode)
	}
	return p, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (p *progress) event(e convert.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	old, known := p.state[e.Layer]
	if e.Layer != "" {
		if !known {
			p.order = append(p.order, e.Layer)
		}
		p.state[e.Layer] = e
	}
	switch p.mode {
	case "json":
		json.NewEncoder(p.w).Encode(e)
	case "plain":
		if !known || old.Phase != e.Phase {
			fmt.Fprintln(p.w, line(e))
		}
	case "bars":
		if e.Phase == convert.PhaseNote {
			p.erase()
			fmt.Fprintln(p.w, e.Text)
		}
		if time.Since(p.last) > 80*time.Millisecond || old.Phase != e.Phase {
			p.draw()
		}
	}
}

func line(e convert.Event) string {
	if e.Phase == convert.PhaseNote {
		return e.Text
	}
	return fmt.Sprintf("%s %-6s %s", shortDigest(e.Layer), e.Phase, bytesText(e.Total))
}

func shortDigest(s string) string {
	_, hex, _ := strings.Cut(s, ":")
	return hex[:min(12, len(hex))]
}

func (p *progress) erase() {
	if p.drawn > 0 {
		fmt.Fprintf(p.w, "\x1b[%dA\x1b[J", p.drawn)
	}
	p.drawn = 0
}

func (p *progress) draw() {
	p.erase()
	var b strings.Builder
	for _, id := range p.order {
		b.WriteString(bar(p.state[id]) + "\n")
	}
	io.WriteString(p.w, b.String())
	p.drawn, p.last = len(p.order), time.Now()
}

const barWidth = 30

func bar(e convert.Event) string {
	full := barWidth
	if e.Total > 0 {
		full = int(min(e.Done, e.Total) * barWidth / e.Total)
	}
	return fmt.Sprintf("%s %-6s [%s%s] %s", shortDigest(e.Layer), e.Phase,
		strings.Repeat("#", full), strings.Repeat(" ", barWidth-full), bytesText(e.Total))
}

// close draws the last state; events that come later are dropped. It may be called twice.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == "bars" && !p.closed {
		p.draw()
	}
	p.closed = true
}
