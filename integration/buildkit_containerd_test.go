// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"lighter/integration/link"
)

// startContainerd starts a containerd with its own state and gives its socket.
func (e *Env) startContainerd(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(e.Run, "ctd.sock")
	conf := e.Path(t, "containerd", "config.toml")
	err := os.WriteFile(conf, fmt.Appendf(nil, "version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		e.Path(t, "containerd", "root"), filepath.Join(e.Run, "ctd"), socket), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(e.Path(t, "containerd", "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("containerd", "--config", conf)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := waitFor(ctx, "containerd", func() bool {
		return exec.Command("ctr", "--address", socket, "version").Run() == nil
	}); err != nil {
		raw, _ := os.ReadFile(log.Name())
		t.Fatalf("%v\n%s", err, raw)
	}
	return socket
}

// TestBuildKitContainerd builds on an accelerated image with the containerd
// worker, whose snapshots are containerd's and whose containers are, too.
func TestBuildKitContainerd(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	e.Push(t, Python)
	e.convert(t, Python)
	k, err := link.New(e.Registry.Host, link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	f := &fromTest{e: e, k: k, b: e.StartBuildKit(t, "--oci-worker=false", "--containerd-worker=true", "--containerd-worker-net=host",
		"--containerd-worker-addr="+e.startContainerd(t))}
	_, f.packed = imageSize(t, e.Registry.Ref(Python))
	dir := fromDir(t, onBase, f.ref(Python+":lazy"))
	down, up := f.moved(func() { f.b.Build(t, dir, nydusOutput(f.ref("built"))+",store=false") })
	mustMove(t, "fetched to run Python", down, f.packed/4)
	mustMove(t, "sent", up, f.packed/30)
	mustBeTwoEntries(t, e.Registry.Ref("built"))
	f.b.Build(t, dir, "type=image,name="+f.ref("gzip")+",push=true")
	f.mustEqual(t, "built", "gzip")
	f.b.Ctl(t, "prune", "--all")
	images, err := filepath.Glob(filepath.Join(f.b.Root, "*", "lazy", "images", "*"))
	if err != nil || len(images) != 0 {
		t.Errorf("pruning left %v, %v", images, err)
	}
}
