// SPDX-License-Identifier: Apache-2.0

// Command demo shows what lighter is for: it starts a throw-away registry,
// builds an image from a Dockerfile with our buildkitd, for the plugin and as an
// ordinary one, pulls and runs both over a simulated link, with two dockerds and
// the plugin, prints a table, and leaves nothing behind.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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

// dockerfile is a program over a large base image.
const dockerfile = `FROM BASE
COPY version.py /srv/
RUN python3 -m compileall -q /srv
CMD ["python3", "/srv/version.py"]
`

const program = "import numpy\nprint('numpy', numpy.__version__)\n"

func say(format string, args ...any) { fmt.Printf("— "+format+"\n", args...) }

// build makes the image from a Dockerfile, for the plugin and as an ordinary one.
func build(s *stage, e *integration.Env) {
	dir := filepath.Dir(e.Path(s, "app", "Dockerfile"))
	text := strings.ReplaceAll(dockerfile, "BASE", e.Registry.Ref(integration.Big))
	for name, content := range map[string]string{"Dockerfile": text, "version.py": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			s.Fatalf("%v", err)
		}
	}
	say("starting our buildkitd; the Dockerfile:\n  %s", strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  "))
	b := e.StartBuildKit(s)
	for _, o := range []string{":nydus,push=true,compression=nydus,oci-mediatypes=true", ":classic,push=true"} {
		output := "type=image,name=" + e.Registry.Host + "/app" + o
		say("$ buildctl build --frontend=dockerfile.v0 --local context=. --local dockerfile=. --output %s", output)
		start := time.Now()
		b.Build(s, dir, output)
		say("built and pushed in %.1f s", time.Since(start).Seconds())
	}
	b.Stop(s)
}

func run(s *stage) {
	e := integration.New(s)
	say("starting a registry; the base image: Debian, Python, numpy, compilers")
	e.StartRegistry(s)
	e.Push(s, integration.Big)
	build(s, e)
	k, err := link.New(e.Registry.Host, link.Gigabit)
	if err != nil {
		s.Fatalf("%v", err)
	}
	s.Cleanup(func() { k.Close() })
	say("starting a dockerd with overlay2, and one with the plugin; both reach the registry over 1 Gbit/s, 2 ms")
	classic := e.StartDaemon(s, integration.DaemonOptions{Name: "o"})
	lighter := e.StartLighter(s, integration.DaemonOptions{Name: "d"})
	names := []string{"classic: overlay2, ordinary image", "lazy: lighter, compression=nydus"}
	var figures []integration.Figures
	for i, side := range []struct {
		d   *integration.Daemon
		ref string
	}{{classic, k.Addr + "/app:classic"}, {lighter, k.Addr + "/app:nydus"}} {
		say("%s:\n  $ docker pull %s\n  $ docker run --rm %s python3 /srv/version.py", names[i], side.ref, side.ref)
		figures = append(figures, side.d.Measure(s, k, side.ref, "python3", "/srv/version.py"))
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
