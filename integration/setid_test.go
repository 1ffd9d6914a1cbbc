// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// privileged makes a program that is set-id root, and one with a file capability (net_bind_service, effective).
const privileged = `
RUN cp /usr/bin/id /usr/bin/suid-id && chmod 4755 /usr/bin/suid-id && cp /usr/bin/id /usr/bin/sgid-id && chgrp 42 /usr/bin/sgid-id && chmod 2755 /usr/bin/sgid-id \
 && cp -L /usr/bin/python3 /usr/bin/cap-python \
 && python3 -c "import os; os.setxattr('/usr/bin/cap-python', 'security.capability', bytes.fromhex('0100000200040000000000000000000000000000'))"
`

// Set-id bits and file capabilities of an image work in containers, and are out
// of the reach of other users of the host.
func TestSetID(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	plain := e.StartDaemon(t, DaemonOptions{Name: "o"})
	target := e.Registry.Ref("setid")
	cmd := plain.Command("build", "-q", "--network=none", "-t", target, "-")
	plain.Docker(t, "pull", "-q", e.Registry.Ref(Python))
	cmd.Stdin = strings.NewReader("FROM " + e.Registry.Ref(Python) + privileged)
	runCommand(t, 5*time.Minute, cmd)
	plain.Docker(t, "push", "-q", target)
	check := func(d *Daemon, ref string) string {
		return d.Docker(t, "run", "--rm", "--network=none", "-u", "1000:1000", ref, "sh", "-c",
			"suid-id -u; sgid-id -g; cap-python -c 'print([l for l in open(\"/proc/self/status\") if l[:6] == \"CapEff\"])'")
	}
	want := check(plain, target)
	if want != "0\n42\n['CapEff:\\t0000000000000400\\n']" {
		t.Fatalf("on overlay2: %q", want)
	}
	e.Lighter(t, "convert", target, e.Registry.Ref("setid:lazy"))
	d := e.StartLighter(t, DaemonOptions{})
	for _, ref := range []string{target, e.Registry.Ref("setid:lazy"), e.Registry.Ref("setid:lazy-data")} {
		d.Docker(t, "pull", "-q", ref)
		if got := check(d, ref); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
		keep := d.Docker(t, "run", "-d", "--network=none", ref, "sleep", "100")
		merged := d.Docker(t, "inspect", "-f", "{{index .GraphDriver.Data \"MergedDir\"}}", keep) // as the plugin sees it
		merged = strings.Replace(merged, "/var/lib/lighter", d.PluginState(t), 1)
		for _, path := range []string{d.PluginState(t) + "/data", d.PluginState(t) + "/run/control.sock", merged} {
			look := exec.Command("ls", "-d", path+"/.")
			look.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, errOut, err := tryCommand(time.Minute, look); err == nil || !strings.Contains(errOut, "ermission denied") {
				t.Errorf("another user reaches %s: %s%s", path, out, errOut)
			}
		}
		d.Docker(t, "rm", "-f", keep)
	}
}
