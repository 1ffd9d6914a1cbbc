// SPDX-License-Identifier: Apache-2.0

package convert

import "io"

// Phase is what happens to a layer.
type Phase string

// The phases of a layer, in order; a layer is either built or reused or passed on.
const (
	PhaseBuild  Phase = "build"  // Done and Total count the source's stored bytes
	PhaseUpload Phase = "upload" // Done and Total count the blob's bytes
	PhaseDone   Phase = "done"
	PhaseReused Phase = "reused" // converted by an earlier run
	PhaseShared Phase = "shared" // converted earlier in this run
	PhaseCopy   Phase = "copy"   // passed on unchanged
	PhaseCheck  Phase = "check"  // compared with its digest
	PhaseNote   Phase = "note"   // no layer: Text is for the user
)

// Event is one step of a conversion or copy.
type Event struct {
	Phase Phase  `json:"phase"`
	Layer string `json:"layer,omitempty"` // digest in the source
	Done  int64  `json:"done,omitempty"`  // bytes
	Total int64  `json:"total,omitempty"` // bytes
	Text  string `json:"text,omitempty"`
}

// Progress receives events; it is called from several goroutines at once and must not block long.
type Progress func(Event)

func (p Progress) send(e Event) {
	if p != nil {
		p(e)
	}
}

// countingReader reports bytes read, about every half MiB.
type countingReader struct {
	r    io.Reader
	p    Progress
	e    Event
	sent int64
}

const countStep = 512 << 10

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.e.Done += int64(n)
	if c.e.Done-c.sent >= countStep || err == io.EOF {
		c.sent = c.e.Done
		c.p.send(c.e)
	}
	return n, err
}
