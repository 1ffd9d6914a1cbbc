// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PluginName is what tests call the plugin; Docker adds ":latest".
const PluginName = "lighter"

// PluginDir packs the plugin, once per Env, as `docker plugin create` takes it.
func (e *Env) PluginDir(t TB) string {
	t.Helper()
	if p := e.bins["plugin"]; p != "" {
		return p
	}
	root, err := RepoRoot()
	if err != nil {
		t.Fatalf("plugin: %v", err)
	}
	dir := e.Path(t, "plugin", "packed")
	runCommand(t, 10*time.Minute, exec.Command(filepath.Join(root, "plugin", "build.sh"), dir))
	e.bins["plugin"] = dir
	return dir
}

// InstallPlugin creates and enables the plugin and restarts the daemon with it
// as storage driver. Settings are as for `docker plugin set`.
func (d *Daemon) InstallPlugin(t TB, settings ...string) {
	t.Helper()
	d.CreatePlugin(t, PluginName, settings...)
	d.Docker(t, "plugin", "enable", PluginName)
	d.Restart(t, PluginName)
}

// CreatePlugin creates the plugin and applies settings; it stays disabled.
func (d *Daemon) CreatePlugin(t TB, name string, settings ...string) {
	t.Helper()
	d.Docker(t, "plugin", "create", name, d.env.PluginDir(t))
	settings = append([]string{"docker-image.source=" + d.Root + "/image", "docker-etc.source=" + d.Etc, "LIGHTER_LOG_LEVEL=debug"}, settings...)
	d.Docker(t, append([]string{"plugin", "set", name}, settings...)...)
}

// StartLighter starts a dockerd whose storage driver is the plugin.
func (e *Env) StartLighter(t TB, o DaemonOptions, settings ...string) *Daemon {
	t.Helper()
	d := e.StartDaemon(t, o)
	d.InstallPlugin(t, settings...)
	return d
}

// PluginState is the plugin's propagated mount as the host sees it.
func (d *Daemon) PluginState(t TB) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(d.Root, "plugins", "*", "propagated-mount"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("propagated mounts of the plugin: %v, %v", dirs, err)
	}
	return dirs[0]
}

// PluginProcesses returns the host's ids of the plugin's keeper and of the
// worker that serves. It waits until there is one.
func (d *Daemon) PluginProcesses(t TB) (keeper, worker int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var last error
	err := waitFor(ctx, "the plugin's processes", func() bool {
		var status struct{ PID int }
		if last = d.TryControl(t, "GET", "/v1/status", &status); last != nil {
			return false
		}
		worker = d.hostPID(status.PID)
		keeper = parentOf(worker)
		return worker != 0 && keeper != 0
	})
	if err != nil {
		t.Fatalf("%v: %v\n%s", err, last, d.LogTail(20))
	}
	return keeper, worker
}

// hostPID finds the process that has the given id inside this daemon's plugin; 0: none.
func (d *Daemon) hostPID(inside int) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		status, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "status"))
		if ids := strings.Fields(lineOf(string(status), "NSpid:")); len(ids) == 2 && ids[1] == strconv.Itoa(inside) && d.owns(pid) && isPlugin(pid) {
			return pid
		}
	}
	return 0
}

func lineOf(text, prefix string) string {
	_, rest, _ := strings.Cut(text, "\n"+prefix)
	line, _, _ := strings.Cut(rest, "\n")
	return line
}

func isPlugin(pid int) bool {
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return bytes.HasPrefix(args, []byte("/lighter-plugin\x00")) || bytes.HasPrefix(args, []byte("/proc/self/exe\x00"))
}

// owns says whether a process sees a mount of this daemon's data root.
func (d *Daemon) owns(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	return err == nil && bytes.Contains(b, []byte(d.Root+"/"))
}

// KillProcess ends one process and waits until it has gone.
func KillProcess(t TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := waitFor(ctx, "a killed process to go", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }); err != nil {
		t.Fatalf("%v", err)
	}
}

// Control asks the plugin's control socket and decodes its answer into v.
func (d *Daemon) Control(t TB, method, path string, v any) {
	t.Helper()
	if err := d.TryControl(t, method, path, v); err != nil {
		t.Fatalf("control: %s %s: %v", method, path, err)
	}
}

// TryControl is Control for when there may be no answer.
func (d *Daemon) TryControl(t TB, method, path string, v any) error {
	t.Helper()
	// The path is longer than a socket's name may be: go there by a descriptor.
	dir, err := os.Open(filepath.Join(d.PluginState(t), "run"))
	if err != nil {
		return err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/control.sock", dir.Fd())
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", short)
		},
	}}
	req, err := http.NewRequest(method, "http://lighter"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}
