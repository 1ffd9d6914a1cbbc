// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"strings"
	"testing"
)

// TestBuildx builds with `docker buildx`, through a daemon of ours that runs
// beside Docker and through one that Docker runs as a container.
func TestBuildx(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.InstallBuildx(t)
	b := e.StartBuildKit(t)
	d := e.StartDaemon(t, DaemonOptions{Flags: e.boundedRuntime(t)})
	dir := contextDir(t, e, small)
	const image = "lighter/buildkitd:test"
	d.Docker(t, "load", "-q", "-i", e.BuildKitImage(t, image))
	for name, create := range map[string][]string{
		"remote":    {"--driver", "remote", b.Addr},
		"container": {"--driver", "docker-container", "--driver-opt", "image=" + image, "--driver-opt", "network=host"},
	} {
		t.Run(name, func(t *testing.T) {
			d.Docker(t, append([]string{"buildx", "create", "--name", name, "--use"}, create...)...)
			t.Cleanup(func() { d.Docker(t, "buildx", "rm", name) })
			if out := d.Docker(t, "buildx", "inspect", "--bootstrap", name); !strings.Contains(out, "v0.33.1") {
				t.Errorf("the builder is\n%s", out)
			}
			ref, plain := e.Registry.Ref(name), e.Registry.Ref(name+"-plain")
			d.Docker(t, "buildx", "build", "--provenance=false", "--output", nydusOutput(ref)+",nydus-chunk-size=0x200000", dir)
			d.Docker(t, "buildx", "build", "--provenance=false", "--output", plainOutput(plain), dir)
			e.Lighter(t, "check", ref)
			mustBeTwoEntries(t, ref)
			mustRead(t, unpacked(t, plain), listed(t, ref))
			_, err := d.TryDocker("buildx", "build", "--output", nydusOutput(ref)+",nydus-chunk-size=3", dir)
			if err == nil || !strings.Contains(err.Error(), "nydus-chunk-size=3: is no power of two") {
				t.Errorf("a wrong attribute: %v", err)
			}
		})
	}
}

// boundedRuntime makes a runtime that gives privileged containers, such as
// buildx makes, the capabilities that this machine lets anyone have: where the
// tests themselves run confined, dockerd's full list cannot be applied.
func (e *Env) boundedRuntime(t TB) (flags []string) {
	t.Helper()
	script := e.Path(t, "bounded-runc")
	if err := os.WriteFile(script, []byte(boundedRunc), 0o755); err != nil {
		t.Fatalf("runtime: %v", err)
	}
	return []string{"--add-runtime", "bounded=" + script, "--default-runtime", "bounded"}
}

const boundedRunc = `#!/usr/bin/python3
import json, os, sys
# as linux/capability.h numbers them
NAMES = """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
  NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE
  SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND
  AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE""".split()
args = sys.argv[1:]
def after(option):
    return args[args.index(option) + 1] if option in args else None
name = None
if "create" in args and after("--bundle"):
    name = os.path.join(after("--bundle"), "config.json")
elif "exec" in args:
    name = after("--process")
if name:
    with open(name) as f:
        config = json.load(f)
    bound = int([l for l in open("/proc/self/status") if l.startswith("CapBnd:")][0].split()[1], 16)
    have = {"CAP_" + n for i, n in enumerate(NAMES) if bound >> i & 1}
    caps = config.get("process", config).get("capabilities") or {}
    for k in caps:
        caps[k] = [c for c in caps[k] if c in have]
    with open(name, "w") as f:
        json.dump(config, f)
os.execvp("runc", ["runc"] + args)
`
