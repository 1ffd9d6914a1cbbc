// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"
	"time"
)

// cold reads a file of the Python image that nothing reads at start.
const cold = "sha256sum /usr/bin/perl"

// A registry that is away for a while delays reads; one that stays away fails
// them within the set time; when it is back, so are the reads.
func TestRegistryOutage(t *testing.T) {
	const limit = 30 * time.Second
	s := newLazyStage(t, DaemonOptions{}, "LIGHTER_READ_TIMEOUT="+limit.String())
	id := s.Docker(t, "run", "-d", "--network=none", s.ref, "sleep", "1000")
	s.Docker(t, "exec", id, "sh", "-c", "sha256sum /bin/true; python3 --version")
	read := func(command string) (time.Duration, error) {
		start := time.Now()
		_, err := s.TryDocker("exec", id, "sh", "-c", command)
		return time.Since(start), err
	}

	s.e.Registry.Stop()
	back := time.AfterFunc(20*time.Second, func() { s.e.Registry.Start(t) })
	defer back.Stop()
	took, err := read("sha256sum /usr/lib/python3/dist-packages/numpy/core/*.so")
	if err != nil || took < 15*time.Second {
		t.Errorf("read over an outage of 20 s: %v after %v", err, took)
	}

	s.e.Registry.Stop()
	took, err = read(cold)
	if err == nil || !strings.Contains(err.Error(), "Input/output error") || took < limit-5*time.Second || took > limit+10*time.Second {
		t.Errorf("read without a registry: %v after %v, the limit is %v", err, took, limit)
	}
	s.e.Registry.Start(t)
	if took, err := read(cold); err != nil || took > 20*time.Second {
		t.Errorf("read when the registry was back: %v after %v", err, took)
	}
	s.same(t, s.ref)

	// All has been read now: no registry is needed any more, not even to start.
	s.e.Registry.Stop()
	s.Restart(t, "")
	s.same(t, s.ref)
}

// An image whose data the registry lacks does not start, and says what to do.
func TestMissingData(t *testing.T) {
	s := newLazyStage(t, DaemonOptions{})
	s.Docker(t, "system", "prune", "-af")
	alone := s.e.Registry.Ref("elsewhere/alone")
	runCommand(t, time.Minute, skopeoCopy(s.ref, alone))
	// The hint in the image still names where it was converted.
	s.Docker(t, "pull", "-q", alone)
	s.same(t, alone)
	s.Docker(t, "system", "prune", "-af")

	other := New(t)
	other.StartRegistry(t)
	lonely := other.Registry.Ref("alone")
	runCommand(t, time.Minute, skopeoCopy(s.ref, lonely))
	s.e.Registry.Wipe(t)
	var freed struct{ Freed int64 }
	s.Control(t, "POST", "/v1/cache/prune", &freed)
	s.Docker(t, "pull", "-q", lonely)
	start := time.Now()
	_, err := s.TryDocker("run", "--rm", "--network=none", lonely, "true")
	if err == nil || !strings.Contains(err.Error(), "lighter copy") {
		t.Errorf("an image without data: %v", err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("that it has no data was said after %v", took)
	}
}
