// SPDX-License-Identifier: Apache-2.0

package integration

import (
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
	d := e.StartDaemon(t, DaemonOptions{})
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
