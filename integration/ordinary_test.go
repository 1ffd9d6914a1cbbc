// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// An ordinary image is to cost what it costs with overlay2: these tests put a dockerd on overlay2 and one on the plugin
// side by side, measure in turns, and take the best of each. With LIGHTER_BENCH=1, for quiet machines, the bounds are
// those that we promise; on a busy one only gross slowness shows.
type ordinary struct {
	t        *testing.T
	ref      string
	overlay2 *Daemon
	lighter  *Daemon
	rounds   int
}

func newOrdinary(t *testing.T, disk int64) *ordinary {
	t.Helper()
	e := New(t)
	if disk > 0 {
		e.OwnDisk(t, disk)
	}
	e.StartRegistry(t)
	e.Push(t, Python)
	o := &ordinary{t: t, ref: e.Registry.Ref(Python), rounds: 3}
	if bench() {
		o.rounds = 9
	}
	o.overlay2 = e.StartDaemon(t, DaemonOptions{Name: "o"})
	o.lighter = e.StartLighter(t, DaemonOptions{Name: "d"})
	return o
}

var header = fmt.Sprintf("%-34s %11s %11s %7s\n", "", "overlay2", "lighter", "ratio")

// inTurns measures with both daemons, one after the other, and the other way round the next time. It returns the least
// of each figure.
func (o *ordinary) inTurns(measure func(d *Daemon) []time.Duration) (overlay2, lighter []time.Duration) {
	o.t.Helper()
	least := func(best, now []time.Duration) []time.Duration {
		for i := range best {
			now[i] = min(now[i], best[i])
		}
		return now
	}
	for n := range o.rounds {
		if n%2 == 0 {
			overlay2 = least(overlay2, measure(o.overlay2))
			lighter = least(lighter, measure(o.lighter))
		} else {
			lighter = least(lighter, measure(o.lighter))
			overlay2 = least(overlay2, measure(o.overlay2))
		}
	}
	return overlay2, lighter
}

// compare logs one figure, and fails if the plugin's is too much more. It returns the line.
func (o *ordinary) compare(what string, overlay2, lighter time.Duration, most float64) string {
	o.t.Helper()
	ratio := float64(lighter) / float64(overlay2)
	line := fmt.Sprintf("%-34s %9.3f s %9.3f s %7.2f", what, overlay2.Seconds(), lighter.Seconds(), ratio)
	if most > 0 && ratio > most {
		o.t.Errorf("%s of an ordinary image takes %.3f of overlay2's, more than %.2f", what, ratio, most)
	}
	return line + "\n"
}

func TestOrdinaryPull(t *testing.T) {
	o := newOrdinary(t, 8<<30)
	measure := func(d *Daemon) []time.Duration {
		start, cpu := time.Now(), d.CPU(t)
		d.Docker(t, "pull", "-q", o.ref)
		took := []time.Duration{time.Since(start), d.CPU(t) - cpu}
		d.Docker(t, "rmi", "-f", o.ref)
		return took
	}
	plain, ours := o.inTurns(measure)
	most := 1.5
	if bench() {
		most = 1.1
	}
	text := header + o.compare("pull", plain[0], ours[0], most) + o.compare("pull, CPU time", plain[1], ours[1], 0)
	t.Log("\n" + text)
	keepFigures(t, "ordinary-pull.txt", text)
}

// work reads a whole tree, writes and removes files, and changes files of the image, which copies them up. It prints the
// seconds of the fastest of several times for each.
const work = `
import os, time
def read(n):
    for top, _, files in os.walk("/usr"):
        for f in files:
            try:
                with open(top + "/" + f, "rb") as h:
                    while h.read(1 << 20): pass
            except FileNotFoundError: pass # a link to nothing
def write(n):
    os.mkdir("/new")
    for i in range(2000):
        with open("/new/%d" % i, "wb") as h: h.write(b"x" * 5000)
    for i in range(2000): os.remove("/new/%d" % i)
    os.rmdir("/new")
def change(n):
    for top, _, files in os.walk("/usr/lib/python3"):
        for f in sorted(files)[n::6]:
            if not os.path.islink(top + "/" + f): os.chmod(top + "/" + f, 0o600)
for f in (read, write, change):
    best = 1e9
    for n in range(6):
        begin = time.perf_counter()
        f(n)
        best = min(best, time.perf_counter() - begin)
    print(best, flush=True)
`

// At run time the plugin adds nothing: in containers of an ordinary image files are read and written as on overlay2. On a
// container's start and end it has Docker's ten calls over a socket, some milliseconds.
func TestOrdinaryRun(t *testing.T) {
	o := newOrdinary(t, 8<<30)
	for _, d := range []*Daemon{o.overlay2, o.lighter} {
		d.Docker(t, "pull", "-q", o.ref)
	}
	plain, ours := o.inTurns(func(d *Daemon) (took []time.Duration) {
		out := d.Docker(t, "run", "--rm", "--network=none", o.ref, "python3", "-c", work)
		for _, line := range strings.Fields(out) {
			seconds, err := time.ParseDuration(line + "s")
			if err != nil {
				t.Fatal(err)
			}
			took = append(took, seconds)
		}
		if len(took) != 3 {
			t.Fatalf("output %q", out)
		}
		return took
	})
	start := map[*Daemon][]time.Duration{}
	for range 4 * o.rounds {
		for _, d := range []*Daemon{o.overlay2, o.lighter} {
			begin := time.Now()
			d.Docker(t, "run", "--rm", "--network=none", o.ref, "true")
			start[d] = append(start[d], time.Since(begin))
		}
	}
	// The least would be that of a lucky moment: much in it is no work, but waiting for other processes.
	median := func(d *Daemon) time.Duration {
		slices.Sort(start[d])
		return start[d][len(start[d])/2]
	}
	total := func(d []time.Duration) time.Duration { return d[0] + d[1] + d[2] }
	most, mostStart := 1.5, 1.5
	if bench() {
		most, mostStart = 1.02, 1.1
	}
	text := header + o.compare("read a tree", plain[0], ours[0], 0) + o.compare("write files", plain[1], ours[1], 0) +
		o.compare("change files", plain[2], ours[2], 0) + o.compare("read, write and change", total(plain), total(ours), most) +
		o.compare("start and end of a container", median(o.overlay2), median(o.lighter), mostStart)
	t.Log("\n" + text)
	keepFigures(t, "ordinary-run.txt", text)
}

// What a container of an ordinary image runs on is the same mount as with overlay2, and nothing of ours is below it.
func TestOrdinaryMount(t *testing.T) {
	o := newOrdinary(t, 0)
	shape := func(d *Daemon) string {
		d.Docker(t, "pull", "-q", o.ref)
		keep := d.Docker(t, "run", "-d", "--network=none", o.ref, "sleep", "1000")
		defer d.Docker(t, "rm", "-f", keep)
		for _, m := range d.env.Mounts(t) {
			if strings.HasPrefix(m, "fuse") {
				t.Errorf("an ordinary container runs, and there is %s", m)
			}
		}
		for _, line := range strings.Split(d.Docker(t, "exec", keep, "cat", "/proc/self/mountinfo"), "\n") {
			if f := strings.Fields(line); len(f) > 4 && f[4] == "/" {
				return mountShape(t, line)
			}
		}
		t.Fatal("no root mount")
		return ""
	}
	plain, ours := shape(o.overlay2), shape(o.lighter)
	if plain != ours || !strings.HasPrefix(ours, "overlay ") {
		t.Errorf("root of a container: %s\non overlay2:          %s", ours, plain)
	}
	t.Log(ours)
}

// mountShape is a line of mountinfo from the mount's options on, with directories counted instead of named.
func mountShape(t *testing.T, line string) string {
	t.Helper()
	before, after, _ := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after)
	if len(f) < 6 || len(g) != 3 {
		t.Fatalf("mountinfo: %q", line)
	}
	options := strings.Split(g[2], ",")
	for i, o := range options {
		if key, dirs, ok := strings.Cut(o, "dir="); ok {
			options[i] = fmt.Sprintf("%sdir=%d", key, strings.Count(dirs, ":")+1)
		}
	}
	slices.Sort(options)
	return g[0] + " " + f[5] + " " + strings.Join(options, ",")
}
