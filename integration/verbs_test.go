// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"
)

// side is one image on one daemon.
type side struct {
	*Daemon
	ref   string
	exact bool // the image is an ordinary one: even digests are to be as on overlay2
}

// onlyExact stands before what is the same only for one and the same image: digests, mostly.
const onlyExact = "\nexactly:\n"

// verbs are what Docker does to images and containers. Each returns what a user
// would see; that is the same on overlay2 with the ordinary image and on the
// plugin with any image. They run in this order, on one daemon.
var verbs = []struct {
	name string
	do   func(t *testing.T, s side) string
}{
	{"run", verbRun}, {"diff", verbDiff}, {"commit", verbCommit}, {"build", verbBuild}, {"cp", verbCp},
	{"export", verbExport}, {"save-load", verbSaveLoad}, {"push", verbPush}, {"df", verbDf}, {"prune", verbPrune},
}

// TestVerbs runs every verb on an ordinary, a lazy and a full Nydus image.
func TestVerbs(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Tiny, Python)
	e.convert(t, Python)
	plain := e.StartDaemon(t, DaemonOptions{Name: "o"})
	verbsOn(t, e, plain, e.StartLighter(t, DaemonOptions{Name: "d"}), e.Registry.Ref(Python+":lazy-data"))
}

// verbsOn compares two daemons; full names a full Nydus image.
func verbsOn(t *testing.T, e *Env, plain, lighter *Daemon, full string) {
	want := map[string]string{}
	reference := side{Daemon: plain, ref: e.Registry.Ref(Python), exact: true}
	plain.Docker(t, "pull", "-q", reference.ref)
	for _, v := range verbs {
		want[v.name] = v.do(t, reference)
	}
	for _, kind := range []struct {
		name string
		side
	}{
		{"ordinary", side{lighter, e.Registry.Ref(Python), true}},
		{"lazy", side{lighter, e.Registry.Ref(Python + ":lazy"), false}},
		{"full", side{lighter, full, false}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			lighter.Docker(t, "pull", "-q", kind.ref)
			for _, v := range verbs {
				t.Run(v.name, func(t *testing.T) {
					got, want := v.do(t, kind.side), want[v.name]
					if !kind.exact {
						got, _, _ = strings.Cut(got, onlyExact)
						want, _, _ = strings.Cut(want, onlyExact)
					}
					if got != want {
						t.Errorf("not as on overlay2: %s", difference(got, want))
					}
				})
			}
		})
	}
}

// run runs a container of the image and returns its output.
func (s side) run(t *testing.T, ref string, args ...string) string {
	t.Helper()
	listing := s.env.Binary(t, "integration/listing")
	return s.Docker(t, append([]string{"run", "--rm", "--network=none", "-v", listing + ":/listing:ro", ref}, args...)...)
}

func verbRun(t *testing.T, s side) string {
	return s.run(t, s.ref, "/listing", "/") + s.run(t, s.ref, "python3", "-c", "import numpy; print(numpy.arange(6).sum())")
}

// change is what a container does to its file system, with fixed times, so that
// the layer made of it has the same bytes everywhere.
const change = `set -e
rm /usr/share/base-files/motd; rm -r /usr/share/doc/bash
mkdir /new; echo new >/new/file; ln /new/file /new/hard; ln -s file /new/link; mkfifo /new/pipe
echo more >>/etc/issue; chmod 4750 /usr/bin/head; chown 7:8 /usr/share/base-files
mv /usr/share/common-licenses/BSD /new/moved
rm -r /usr/share/doc/tar; mkdir /usr/share/doc/tar; echo replaced >/usr/share/doc/tar/file
find / -xdev -newer /proc/self/stat -prune 2>/dev/null || true
touch -hd @1700000000 /new/* /new /etc/issue /usr/share/doc/tar/file /usr/share/doc/tar /usr/share/doc /usr/share/base-files /usr/share /usr/share/common-licenses /usr/bin/head /etc / /usr/bin
`

// container makes a container that has run change, and removes it when the verb ends.
func (s side) container(t *testing.T) string {
	t.Helper()
	id := s.Docker(t, "create", "--network=none", s.ref, "sh", "-c", change)
	t.Cleanup(func() { s.TryDocker("rm", "-f", id) })
	if out := s.Docker(t, "start", "-a", id); out != "" {
		t.Fatalf("the container's changes: %s", out)
	}
	return id
}

func verbDiff(t *testing.T, s side) string {
	lines := strings.Split(s.Docker(t, "diff", s.container(t)), "\n")
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func verbCommit(t *testing.T, s side) string {
	id := s.container(t)
	ref := "committed-" + s.o.Name
	s.Docker(t, "commit", id, ref)
	return s.topLayer(t, ref) + s.run(t, ref, "/listing", "/")
}

// topLayer saves an image and lists the tar of its last layer.
func (s side) topLayer(t *testing.T, ref string) string {
	t.Helper()
	dir := filepath.Dir(s.env.Path(t, "tmp", "top-"+s.o.Name, "x"))
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "save.tar")
	s.Docker(t, "save", "-o", file, ref)
	runCommand(t, time.Minute, exec.Command("tar", "-C", dir, "-xf", file))
	b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var manifest []struct{ Layers []string }
	if err := json.Unmarshal(b, &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest.json: %s: %v", b, err)
	}
	layers := manifest[0].Layers
	return tarListing(t, filepath.Join(dir, layers[len(layers)-1]), true)
}

func verbBuild(t *testing.T, s side) string {
	dir := t.TempDir()
	dockerfile := "FROM " + s.ref + `
COPY copied /opt/copied
RUN rm -r /usr/share/doc/tar && chmod 700 /usr/bin/tail && echo built >>/opt/copied && python3 -c 'import numpy; print(numpy.ones(3))' >/opt/numpy
RUN cp -a /usr/bin/head /opt/ && rm /opt/numpy
USER nobody
`
	for name, text := range map[string]string{"Dockerfile": dockerfile, "copied": "copied\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.Docker(t, "build", "-q", "--network=none", "-t", "built-"+s.o.Name, dir)
	return s.run(t, "built-"+s.o.Name, "sh", "-c", "id -u; cat /opt/copied") + "\n" +
		s.Docker(t, "run", "--rm", "--network=none", "-u", "0", "-v", s.env.Binary(t, "integration/listing")+":/listing:ro", "built-"+s.o.Name, "/listing", "-mtime=false", "/")
}

func verbCp(t *testing.T, s side) string {
	dir := t.TempDir()
	id := s.container(t)
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("into the container\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	s.Docker(t, "cp", filepath.Join(dir, "in"), id+":/usr/share/doc/in")
	s.Docker(t, "cp", id+":/usr/share/doc", filepath.Join(dir, "out"))
	return treeOf(t, dir)
}

func verbExport(t *testing.T, s side) string {
	id := s.container(t)
	file := s.env.Path(t, "tmp", "export.tar")
	defer os.Remove(file)
	s.Docker(t, "export", "-o", file, id)
	return tarListing(t, file, true)
}

// verbSaveLoad saves the image, removes it, loads it and runs it.
func verbSaveLoad(t *testing.T, s side) string {
	file := s.env.Path(t, "tmp", "save.tar")
	defer os.Remove(file)
	id := s.Docker(t, "inspect", "-f", "{{.Id}}", s.ref)
	s.Docker(t, "save", "-o", file, s.ref)
	s.removeImages(t)
	s.Docker(t, "load", "-q", "-i", file)
	if again := s.Docker(t, "inspect", "-f", "{{.Id}}", s.ref); again != id {
		t.Errorf("image %s was loaded as %s", id, again)
	}
	seen := s.run(t, s.ref, "/listing", "/")
	return seen + onlyExact + tarListing(t, file, false) // some entries of the archive itself are made now
}

// verbPush pushes the image to another repository, removes it here, pulls it from there and runs it.
func verbPush(t *testing.T, s side) string {
	other := s.env.Registry.Ref("other/" + s.o.Name)
	s.Docker(t, "tag", s.ref, other)
	s.Docker(t, "push", "-q", other)
	digest := s.Docker(t, "inspect", "-f", "{{json .RootFS}}", other)
	s.removeImages(t)
	s.Docker(t, "pull", "-q", other)
	if again := s.Docker(t, "inspect", "-f", "{{json .RootFS}}", other); again != digest {
		t.Errorf("pushed %s, pulled %s", digest, again)
	}
	seen := s.run(t, other, "/listing", "/")
	s.Docker(t, "tag", other, s.ref)
	_, pushed, _ := strings.Cut(s.Docker(t, "inspect", "-f", "{{.RepoDigests}}", other), "@")
	return seen + onlyExact + digest + pushed
}

// verbDf compares only what does not depend on how images are stored.
func verbDf(t *testing.T, s side) string {
	id := s.container(t)
	out := s.Docker(t, "system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}")
	out = strings.Join(strings.Split(out, "\n")[1:3], "\n") // containers and volumes
	size := s.Docker(t, "ps", "-as", "--no-trunc", "--filter", "id="+id, "--format", "{{.Size}}")
	size, _, _ = strings.Cut(size, " (virtual") // an accelerated image is as large as its bootstrap
	return out + "\n" + size
}

// verbPrune removes everything, and looks that nothing is left.
func verbPrune(t *testing.T, s side) string {
	s.Docker(t, "create", "--network=none", s.ref, "true")
	s.Docker(t, "system", "prune", "-af")
	return s.Docker(t, "ps", "-aq") + s.Docker(t, "images", "-aq")
}

// removeImages removes all containers and images of the daemon.
func (s side) removeImages(t *testing.T) {
	t.Helper()
	if ids := strings.Fields(s.Docker(t, "ps", "-aq")); len(ids) > 0 {
		s.Docker(t, append([]string{"rm", "-f"}, ids...)...)
	}
	if ids := strings.Fields(s.Docker(t, "images", "-q")); len(ids) > 0 {
		s.Docker(t, append([]string{"rmi", "-f"}, ids...)...)
	}
	if left := s.Docker(t, "images", "-aq"); left != "" {
		t.Errorf("images left after rmi: %s", left)
	}
}

// treeOf lists a directory on this machine.
func treeOf(t *testing.T, dir string) string {
	t.Helper()
	e := exec.Command("go", "run", "lighter/integration/listing", "-mtime=false", dir)
	return runCommand(t, time.Minute, e)
}

// madeNow are the files that Docker puts under each container; like whiteouts they have the time of the call.
var madeNow = map[string]bool{
	".dockerenv": true, "etc/": true, "dev/": true, "dev/console": true, "etc/hosts": true, "etc/hostname": true, "etc/resolv.conf": true, "etc/mtab": true,
}

// tarListing prints each entry of a tar file, in its order; the content as digest. Docker before 24 repeats the type in
// the mode of what it packs itself, later ones (whose overlay2 is ours) do not: only permissions count.
func tarListing(t *testing.T, file string, times bool) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b strings.Builder
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			t.Fatalf("%s: %s: %v", file, h.Name, err)
		}
		if !times || madeNow[h.Name] || strings.HasPrefix(path.Base(h.Name), ".wh.") {
			h.ModTime = time.Time{}
		}
		fmt.Fprintf(&b, "%q %c %o %d:%d %d %d %q %v %x\n", h.Name, h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, h.Size, h.ModTime.Unix(), h.Linkname, h.PAXRecords, sum.Sum(nil))
	}
}

// difference shows the first lines in which two texts differ.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	var b strings.Builder
	fmt.Fprintf(&b, "%d lines, want %d", len(g), len(w))
	shown := 0
	for i := 0; i < max(len(g), len(w)) && shown < 5; i++ {
		var gl, wl string
		if i < len(g) {
			gl = g[i]
		}
		if i < len(w) {
			wl = w[i]
		}
		if gl != wl {
			fmt.Fprintf(&b, "\n  got  %.300s\n  want %.300s", gl, wl)
			shown++
		}
	}
	return b.String()
}
