// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	ctd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/containerd"
	"github.com/pelletier/go-toml/v2"
)

// containerdTimeout bounds the wait for containerd to answer.
const containerdTimeout = 60 * time.Second

// containerdWorker leaves build steps to containerd; nil where there is none
// and none is demanded.
func containerdWorker(ctx context.Context, s *settings) (*base.WorkerOpt, error) {
	c := s.Workers.Containerd
	if c.Enabled != nil && !*c.Enabled || c.Enabled == nil && !answers(ctx, c) {
		return nil, nil
	}
	devices, err := s.devices()
	if err != nil {
		return nil, err
	}
	runtime, err := containerdRuntime(c.Runtime)
	if err != nil {
		return nil, err
	}
	opt, err := containerd.NewWorkerOpt(containerd.WorkerOptions{
		Root: s.Root, Address: c.Address, SnapshotterName: c.Snapshotter, Namespace: c.Namespace,
		CgroupParent: c.DefaultCgroupParent, Rootless: c.Rootless, Labels: c.Labels, DNS: s.dns(),
		NetworkOpt: s.network(c.NetworkConfig, c.Rootless), ApparmorProfile: c.ApparmorProfile, Selinux: c.SELinux,
		ParallelismSem: parallel(c.MaxParallelism), TraceSocket: s.OTEL.SocketPath, Runtime: runtime, CDIManager: devices,
	}, ctd.WithTimeout(containerdTimeout))
	if err != nil {
		return nil, err
	}
	return &opt, s.finish(&opt, c.GCConfig, c.Platforms)
}

// containerdRuntime turns the options of the configuration file into the
// runtime's own message.
func containerdRuntime(c config.ContainerdRuntime) (*containerd.RuntimeInfo, error) {
	if c.Name == "" {
		return nil, nil
	}
	var options any = &runtimeoptions.Options{}
	if c.Name == plugins.RuntimeRuncV2 {
		options = &runcoptions.Options{}
	}
	raw, err := toml.Marshal(c.Options)
	if err == nil {
		err = toml.Unmarshal(raw, options)
	}
	if err != nil {
		return nil, fmt.Errorf("runtime %s: options: %w", c.Name, err)
	}
	return &containerd.RuntimeInfo{Name: c.Name, Path: c.Path, Options: options}, nil
}

// answers says whether a containerd is there.
func answers(ctx context.Context, c config.ContainerdConfig) bool {
	if strings.HasPrefix(c.Address, "tcp://") {
		return true
	}
	socket := strings.TrimPrefix(c.Address, "unix://")
	if _, err := os.Stat(socket); err != nil {
		bklog.L.Infof("no containerd worker: %v", err)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, containerdTimeout)
	defer cancel()
	client, err := ctd.New(socket, ctd.WithDefaultNamespace(c.Namespace))
	if err == nil {
		defer client.Close()
		_, err = client.Server(ctx)
	}
	if err != nil {
		bklog.L.Warnf("no containerd worker: %s: %v", socket, err)
	}
	return err == nil
}
