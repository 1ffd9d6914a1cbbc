// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Meter tells how many bytes have come down a link so far.
type Meter interface{ Bytes() int64 }

// Figures are what one pull and first run of an image took.
type Figures struct {
	Pull, Run           time.Duration // Run ends when the program first prints
	PullBytes, RunBytes int64         // over the link
}

// Total is the time from the start of the pull to the first output.
func (f Figures) Total() time.Duration { return f.Pull + f.Run }

// Measure pulls ref and runs a program in it, and counts what meter saw of both.
func (d *Daemon) Measure(t TB, meter Meter, ref string, args ...string) Figures {
	t.Helper()
	var f Figures
	start, bytes := time.Now(), meter.Bytes()
	d.Docker(t, "pull", "-q", ref)
	f.Pull, f.PullBytes = time.Since(start), meter.Bytes()-bytes
	if len(args) == 0 {
		return f
	}
	start, bytes = time.Now(), meter.Bytes()
	cmd := d.Command(append([]string{"run", "--rm", "--network=none", ref}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("measure: %v", err)
	}
	var errOut strings.Builder
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatalf("measure: %v", err)
	}
	_, first := io.ReadFull(out, make([]byte, 1))
	f.Run, f.RunBytes = time.Since(start), meter.Bytes()-bytes
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil || first != nil {
		t.Fatalf("docker run %s: %v, first byte of output: %v\n%s%s", ref, err, first, errOut.String(), d.LogTail(20))
	}
	return f
}

// Table formats figures, one line each, for people.
func Table(names []string, figures []Figures) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-34s %9s %12s %9s %12s %9s %12s\n", "", "pull", "bytes", "run", "bytes", "together", "bytes")
	for i, f := range figures {
		fmt.Fprintf(&b, "%-34s %7.2f s %12s %7.2f s %12s %7.2f s %12s\n", names[i],
			f.Pull.Seconds(), Megabytes(f.PullBytes), f.Run.Seconds(), Megabytes(f.RunBytes), f.Total().Seconds(), Megabytes(f.PullBytes+f.RunBytes))
	}
	return b.String()
}

// Megabytes writes n bytes as MB (10^6) with two digits behind the point.
func Megabytes(n int64) string { return fmt.Sprintf("%.2f MB", float64(n)/1e6) }
