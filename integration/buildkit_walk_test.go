// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/integration/link"
)

// web is a server of static pages, with stages, a linked copy, a capability (the
// one extended attribute that BuildKit keeps) and a set-id file.
const web = `FROM BASE AS tools
RUN mkdir /srv/www && python3 -c 'open("/srv/www/index.html", "w").write(("hello, lazy" + chr(10)) * 1000)'
FROM BASE
COPY --from=tools /srv/www /srv/www
COPY --link serve.py /srv/
RUN cp /bin/true /srv/setid && chmod 6755 /srv/setid && \
  python3 -c 'import os, struct; os.setxattr("/srv/serve.py", "security.capability", struct.pack("<5I", 0x02000001, 1024, 0, 0, 0))' && rm -r /usr/share/doc
CMD ["python3", "/srv/serve.py"]
`

// serve answers one request, its own, and prints the answer's first line.
const serve = `import http.server, os, threading, urllib.request
os.chdir("/srv/www")
server = http.server.HTTPServer(("127.0.0.1", 8080), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
page = urllib.request.urlopen("http://127.0.0.1:8080/").read().decode()
print(page.splitlines()[0], oct(os.stat("/srv/setid").st_mode), os.getxattr("/srv/serve.py", "security.capability").hex()[:16], os.path.exists("/usr/share/doc"))
`

// TestBuildKitWalk goes the whole way of a user: an image is built from its
// Dockerfile with the command line of the upstream article, but for the
// registry's address, and runs lazily under Docker with the plugin.
func TestBuildKitWalk(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	b := e.StartBuildKit(t)
	dir := t.TempDir()
	for name, content := range map[string]string{"Dockerfile": strings.ReplaceAll(web, "BASE", e.Registry.Ref(Python)), "serve.py": serve} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	nginx, plain := e.Registry.Ref("nginx"), e.Registry.Ref("plain")
	cmd := b.Command(t, "build", "--frontend=dockerfile.v0", "--local", "context=.", "--local", "dockerfile=.",
		"--output", "type=image,name="+nginx+",push=true,compression=nydus,oci-mediatypes=true")
	cmd.Dir = dir
	runCommand(t, 5*time.Minute, cmd)
	b.Build(t, dir, plainOutput(plain))
	mustRead(t, unpacked(t, plain), listed(t, nginx))
	_, packed := imageSize(t, plain)
	b.Stop(t)

	k, err := link.New(e.Registry.Host, link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	d := e.StartLighter(t, DaemonOptions{})
	f := d.Measure(t, k, k.Addr+"/nginx")
	pulled := k.Bytes()
	out := d.Docker(t, "run", "--rm", "--network=none", k.Addr+"/nginx")
	ran := k.Bytes() - pulled
	if want := "hello, lazy 0o106755 0100000200040000 False"; out != want {
		t.Errorf("the container printed %q, want %q", out, want)
	}
	t.Logf("as layers %s; pulled %s, read until the answer %s", Megabytes(packed), Megabytes(f.PullBytes), Megabytes(ran))
	if f.PullBytes > packed/20 {
		t.Errorf("the pull moved %d bytes, the ordinary image has %d", f.PullBytes, packed)
	}
	if ran == 0 || f.PullBytes+ran > packed/2 {
		t.Errorf("pull and run moved %d and %d bytes, the ordinary image has %d", f.PullBytes, ran, packed)
	}
}
