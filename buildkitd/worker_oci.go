// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/dialer"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	fuseoverlayfs "github.com/containerd/fuse-overlayfs-snapshotter/v2"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/runc"
	"github.com/moby/sys/user"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// ociWorker runs build steps with runc; nil where there is none and none is demanded.
func ociWorker(_ context.Context, s *settings) (*base.WorkerOpt, error) {
	c := s.Workers.OCI
	if c.Enabled != nil && !*c.Enabled || c.Enabled == nil && !haveRunc() {
		return nil, nil
	}
	snapshotter, err := chooseSnapshotter(s.Root, c.Snapshotter, c.ProxySnapshotterPath)
	if err != nil {
		return nil, err
	}
	mode := oci.ProcessSandbox
	if c.NoProcessSandbox {
		if !c.Rootless {
			return nil, errors.New("only a rootless worker can do without the process sandbox")
		}
		bklog.L.Warn("build containers see the host's processes, and may kill them")
		mode = oci.NoProcessSandbox
	}
	var ids *user.IdentityMapping
	if c.UserRemapUnsupported != "" {
		m, err := user.LoadIdentityMapping(c.UserRemapUnsupported)
		if err != nil {
			return nil, err
		}
		ids = &m
	}
	devices, err := s.devices()
	if err != nil {
		return nil, err
	}
	opt, err := runc.NewWorkerOpt(s.Root, snapshotter, c.Rootless, mode, c.Labels, ids, s.network(c.NetworkConfig, c.Rootless), s.dns(),
		c.Binary, c.ApparmorProfile, c.SELinux, parallel(c.MaxParallelism), s.OTEL.SocketPath, c.DefaultCgroupParent, devices)
	if err != nil {
		return nil, err
	}
	return &opt, s.finish(&opt, c.GCConfig, c.Platforms)
}

func haveRunc() bool {
	for _, name := range []string{"buildkit-runc", "runc"} {
		if _, err := exec.LookPath(name); err == nil {
			return true
		}
	}
	bklog.L.Warn("runc is not installed: no OCI worker")
	return false
}

func chooseSnapshotter(root, name, socket string) (runc.SnapshotterFactory, error) {
	if socket != "" {
		return proxySnapshotter(name, socket)
	}
	if name == "auto" {
		name = bestSnapshotter(root)
		bklog.L.Infof("using snapshotter %s", name)
	}
	f := runc.SnapshotterFactory{Name: name}
	switch name {
	case "overlayfs":
		f.New = func(root string) (snapshots.Snapshotter, error) {
			return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
		}
	case "fuse-overlayfs":
		f.New = func(root string) (snapshots.Snapshotter, error) { return fuseoverlayfs.NewSnapshotter(root) }
	case "native":
		f.New = native.NewSnapshotter
	default:
		return f, fmt.Errorf("snapshotter %q is none of auto, overlayfs, fuse-overlayfs, native", name)
	}
	return f, nil
}

func bestSnapshotter(root string) string {
	if err := overlayutils.Supported(root); err == nil {
		return "overlayfs"
	}
	if err := fuseoverlayfs.Supported(root); err == nil {
		return "fuse-overlayfs"
	}
	return "native"
}

func proxySnapshotter(name, socket string) (runc.SnapshotterFactory, error) {
	f := runc.SnapshotterFactory{Name: name}
	if _, err := os.Stat(socket); err != nil {
		return f, fmt.Errorf("snapshotter: %w", err)
	}
	f.New = func(string) (snapshots.Snapshotter, error) {
		conn, err := grpc.NewClient("passthrough:///"+dialer.DialAddress(socket),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(dialer.ContextDialer),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
		if err != nil {
			return nil, fmt.Errorf("snapshotter %s: %w", socket, err)
		}
		return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), name), nil
	}
	return f, nil
}
