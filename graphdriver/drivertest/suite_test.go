// SPDX-License-Identifier: Apache-2.0

package drivertest_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	moby "github.com/moby/moby/v2/daemon/graphdriver"

	"lighter/graphdriver"
	"lighter/graphdriver/drivertest"
)

// noMounter is for tests without lazy layers: ordinary ones must never ask it.
type noMounter struct{ t *testing.T }

func (m noMounter) Mount(context.Context, string, graphdriver.LazyLayer, string) error {
	m.t.Error("the mounter was asked for an ordinary layer")
	return errors.New("no lazy layers here")
}

func (m noMounter) Unmount(context.Context, string) error {
	m.t.Error("the mounter was asked for an ordinary layer")
	return nil
}

// serve starts a driver with its data in dir on a socket beside it.
func serve(t *testing.T, dir string) (*drivertest.Client, error) {
	d, err := graphdriver.New(graphdriver.Options{Root: filepath.Join(dir, "data"), Mounter: noMounter{t}})
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "plugin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: graphdriver.Handler(d)}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return drivertest.Dial(socket), nil
}

func TestDockerSuite(t *testing.T) {
	drivertest.Suite(t, "lighter", func(root string, opts []string) (*drivertest.Client, error) {
		return start(t, root, opts)
	})
}

// Containers with a limited size, on a file system that can do it.
func TestDockerQuota(t *testing.T) {
	t.Setenv("TMPDIR", quotaDisk(t)) // where Docker's suite makes the driver's root
	drivertest.SuiteQuota(t, "lighter-quota", func(root string, opts []string) (*drivertest.Client, error) {
		return start(t, root, opts)
	})
}

func start(t *testing.T, root string, opts []string) (*drivertest.Client, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	c, err := serve(t, root)
	if err != nil {
		return nil, err
	}
	return c, c.Init(root, opts)
}

// On a file system without quotas, a limit is refused as overlay2 refuses it, rather than ignored.
func TestQuotaRefused(t *testing.T) {
	c, err := start(t, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = c.CreateReadWrite("limited", "", &moby.CreateOpts{StorageOpt: map[string]string{"size": "50M"}})
	if err == nil || !strings.Contains(err.Error(), "pquota") {
		t.Errorf("got %v", err)
	}
	if c.Exists("limited") {
		t.Error("the layer exists")
	}
}

// quotaDisk mounts a small xfs with project quotas.
func quotaDisk(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/proc/fs/xfs/xqm"); err != nil {
		t.Skipf("NOT TESTED: this kernel has no quotas on xfs (CONFIG_XFS_QUOTA): %v", err)
	}
	dir := t.TempDir()
	image, target := filepath.Join(dir, "xfs.img"), filepath.Join(dir, "xfs")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 512<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s (Debian package xfsprogs): %v\n%s", name, err, out)
		}
	}
	run("mkfs.xfs", "-q", image)
	run("mount", "-o", "loop,pquota", image, target)
	t.Cleanup(func() { run("umount", "-l", target) })
	return target
}
