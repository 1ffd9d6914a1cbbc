// SPDX-License-Identifier: Apache-2.0

// Command demo shows what lighter is for: it starts a throw-away registry, two
// dockerds and the plugin, pulls and runs a real image the classic and the lazy
// way over a simulated link, prints a table, and leaves nothing behind.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"lighter/integration"
	"lighter/integration/link"
)

// stage is the demo as integration.TB: a failure cleans up and ends the program.
type stage struct{ cleanups []func() }

func (s *stage) Helper()                         {}
func (s *stage) Cleanup(f func())                { s.cleanups = append(s.cleanups, f) }
func (s *stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
func (s *stage) Fatalf(format string, args ...any) {
	s.Logf("demo: "+format, args...)
	s.leave(1)
}

func (s *stage) leave(code int) {
	for len(s.cleanups) > 0 {
		f := s.cleanups[len(s.cleanups)-1]
		s.cleanups = s.cleanups[:len(s.cleanups)-1]
		f()
	}
	os.Exit(code)
}

func main() {
	integration.Janitor()
	s := &stage{}
	if os.Geteuid() != 0 {
		s.Fatalf("starts dockerd and needs root")
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.Exit(1) // the janitor cleans up
	}()
	run(s)
	s.leave(0)
}

func run(s *stage) {
	e := integration.New(s)
	say := func(format string, args ...any) { fmt.Printf("— "+format+"\n", args...) }
	say("starting a registry; the image: Debian, Python, numpy, compilers")
	e.StartRegistry(s)
	e.Push(s, integration.Big, integration.Tiny)
	plain, lazy := e.Registry.Ref(integration.Big), e.Registry.Ref(integration.Big+":lazy")
	say("$ lighter convert %s %s", plain, lazy)
	e.Lighter(s, "convert", plain, lazy)
	k, err := link.New(e.Registry.Host, link.Gigabit)
	if err != nil {
		s.Fatalf("%v", err)
	}
	s.Cleanup(func() { k.Close() })
	say("starting a dockerd with overlay2, and one with the plugin; both reach the registry over 1 Gbit/s, 2 ms")
	classic := e.StartDaemon(s, integration.DaemonOptions{Name: "o"})
	lighter := e.StartLighter(s, integration.DaemonOptions{Name: "d"})
	program := []string{"python3", "-c", "import numpy; print('numpy', numpy.__version__)"}
	names := []string{"classic: overlay2, ordinary image", "lazy: lighter, converted image"}
	var figures []integration.Figures
	for i, side := range []struct {
		d   *integration.Daemon
		ref string
	}{{classic, k.Addr + "/" + integration.Big}, {lighter, k.Addr + "/" + integration.Big + ":lazy"}} {
		say("%s:\n  $ docker pull %s\n  $ docker run --rm %s %s", names[i], side.ref, side.ref, strings.Join(program[:2], " ")+` "`+program[2]+`"`)
		figures = append(figures, side.d.Measure(s, k, side.ref, program...))
	}
	fmt.Printf("\n%s\n", integration.Table(names, figures))
	c, l := figures[0], figures[1]
	fmt.Printf("first output after %.0f %% of the classic time, with %.1f %% of its bytes\n\n",
		100*l.Total().Seconds()/c.Total().Seconds(), 100*float64(l.PullBytes+l.RunBytes)/float64(c.PullBytes+c.RunBytes))
	say("$ lighter status")
	status := exec.Command(e.Binary(s, "cmd/lighter"), "status", "--host", "unix://"+lighter.PluginState(s)+"/run/control.sock")
	status.Stdout, status.Stderr = os.Stdout, os.Stderr
	if err := status.Run(); err != nil {
		s.Fatalf("lighter status: %v", err)
	}
}
