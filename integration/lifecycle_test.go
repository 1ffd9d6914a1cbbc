// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"strings"
	"testing"
)

// The plugin as users get it: created and pushed on one machine, installed from
// the registry on another, set, disabled, enabled, upgraded.
func TestPluginLifecycle(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	ref := e.convert(t, Python)
	v1, v2 := e.Registry.Ref("plugins/lighter:1"), e.Registry.Ref("plugins/lighter:2")

	maker := e.StartDaemon(t, DaemonOptions{Name: "m"})
	for _, v := range []string{v1, v2} {
		maker.Docker(t, "plugin", "create", v, e.PluginDir(t))
		maker.Docker(t, "plugin", "push", v)
		maker.Docker(t, "plugin", "rm", v)
	}
	maker.Stop(t)

	d := e.StartDaemon(t, DaemonOptions{Name: "d"})
	d.Docker(t, "plugin", "install", "--grant-all-permissions", "--disable", "--alias", PluginName, v1,
		"docker-image.source="+d.Root+"/image", "docker-etc.source="+d.Etc, "LIGHTER_READ_TIMEOUT=20s")
	d.Docker(t, "plugin", "enable", PluginName)
	d.Restart(t, PluginName)
	d.Docker(t, "pull", "-q", ref)
	id := d.Docker(t, "run", "-d", "--network=none", ref, "sleep", "1000")
	d.Docker(t, "exec", id, "sh", "-c", "echo kept >/kept")
	works := func(when string) {
		t.Helper()
		d.Docker(t, "start", id)
		if out := d.Docker(t, "exec", id, "cat", "/kept"); out != "kept" {
			t.Errorf("%s: the container's file reads %q", when, out)
		}
		if out := d.Docker(t, "run", "--rm", "--network=none", ref, "python3", "-c", "import numpy; print(numpy.arange(6).sum())"); out != "15" {
			t.Errorf("%s: a run printed %q", when, out)
		}
	}
	works("installed")

	if _, err := d.TryDocker("plugin", "disable", PluginName); err == nil {
		t.Error("a plugin in use was disabled without force")
	}
	d.Docker(t, "stop", "-t", "1", id)
	d.Docker(t, "plugin", "disable", "-f", PluginName)
	if out, err := d.TryDocker("start", id); err == nil {
		t.Errorf("a container started without its storage driver: %s", out)
	}
	d.Docker(t, "plugin", "set", PluginName, "LIGHTER_CACHE_LIMIT=5G")
	if _, err := d.TryDocker("plugin", "set", PluginName, "LIGHTER_NONSENSE=1"); err == nil {
		t.Error("a setting that does not exist was accepted")
	}
	d.Docker(t, "plugin", "enable", PluginName)
	works("disabled, set and enabled")
	var status struct {
		Cache struct {
			Limit int64 `json:"cache_limit"`
		} `json:"cache"`
	}
	if d.Control(t, "GET", "/v1/status", &status); status.Cache.Limit != 5<<30 {
		t.Errorf("the limit that was set is %d", status.Cache.Limit)
	}

	d.Docker(t, "stop", "-t", "1", id)
	d.Docker(t, "plugin", "disable", "-f", PluginName)
	d.Docker(t, "plugin", "upgrade", "--grant-all-permissions", "--skip-remote-check", PluginName, v2)
	d.Docker(t, "plugin", "set", PluginName, "docker-image.source="+d.Root+"/image", "docker-etc.source="+d.Etc) // Docker forgets it, though it shows it
	d.Docker(t, "plugin", "enable", PluginName)
	works("upgraded")
	d.Docker(t, "stop", "-t", "1", id)
	d.Restart(t, "")
	works("upgraded and restarted")
	if env := d.Docker(t, "plugin", "inspect", "-f", "{{.Settings.Env}}", PluginName); !strings.Contains(env, "LIGHTER_READ_TIMEOUT=20s") {
		t.Errorf("settings after the upgrade: %s", env)
	}

	d.Docker(t, "rm", "-f", id)
	d.Docker(t, "system", "prune", "-af")
	var freed struct{ Freed int64 }
	d.Control(t, "POST", "/v1/cache/prune", &freed)
	if freed.Freed == 0 {
		t.Error("pruning the cache of removed images freed nothing")
	}
	d.Restart(t, "overlay2")
	d.Docker(t, "plugin", "rm", "-f", PluginName)
}
