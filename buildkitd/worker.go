// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor/oci"
	dockerfileversion "github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/network/cniprovider"
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"lighter/exporter"
)

// newWorkers starts the workers that the settings enable and the machine has,
// the preferred one first.
func newWorkers(ctx context.Context, s *settings, sessions *session.Manager) (*worker.Controller, error) {
	out := &worker.Controller{}
	found := 0
	for _, make := range []func(context.Context, *settings) (*base.WorkerOpt, error){ociWorker, containerdWorker} {
		opt, err := make(ctx, s)
		if err != nil {
			return nil, err
		}
		if opt == nil {
			continue
		}
		w, err := exporter.NewWorker(ctx, *opt, sessions, "")
		if err != nil {
			return nil, err
		}
		p := w.Platforms(false)
		bklog.L.Infof("found worker %q, labels=%v, platforms=%v", w.ID(), w.Labels(), formatPlatforms(p))
		archutil.WarnIfUnsupported(p)
		if err := out.Add(w); err != nil {
			return nil, err
		}
		found++
	}
	if found == 0 {
		return nil, errors.New("no worker: there is neither runc nor a containerd to be reached")
	}
	return out, nil
}

// finish sets what both kinds of worker have.
func (s *settings) finish(opt *base.WorkerOpt, gc config.GCConfig, wanted []string) error {
	opt.GCPolicy = gcPolicy(gc, s.Root)
	opt.BuildkitVersion = client.BuildkitVersion{
		Package: version.Package, Version: version.Version, Revision: version.Revision,
		DockerfileVersion: dockerfileversion.Version(),
	}
	opt.RegistryHosts = resolver.NewRegistryConfig(s.Registries)
	if len(wanted) == 0 {
		return nil
	}
	opt.Platforms = nil
	for _, w := range wanted {
		p, err := platforms.Parse(w)
		if err != nil {
			return fmt.Errorf("platform %q: %w", w, err)
		}
		opt.Platforms = append(opt.Platforms, platforms.Normalize(p))
	}
	return nil
}

func (s *settings) network(n config.NetworkConfig, rootless bool) netproviders.Opt {
	if rootless && n.Mode == "auto" {
		n.Mode = "host"
	}
	return netproviders.Opt{Mode: n.Mode, CNI: cniprovider.Opt{
		Root: s.Root, ConfigPath: n.CNIConfigPath, BinaryDir: n.CNIBinaryPath, PoolSize: n.CNIPoolSize,
		BridgeName: n.BridgeName, BridgeSubnet: n.BridgeSubnet,
	}}
}

func (s *settings) dns() *oci.DNSConfig {
	if s.DNS == nil {
		return nil
	}
	return &oci.DNSConfig{Nameservers: s.DNS.Nameservers, Options: s.DNS.Options, SearchDomains: s.DNS.SearchDomains}
}

func (s *settings) devices() (*cdidevices.Manager, error) {
	c := s.CDI
	if c.Disabled != nil && *c.Disabled {
		return nil, nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(c.SpecDirs...))
	if err != nil {
		return nil, fmt.Errorf("CDI: %w", err)
	}
	if err := cache.Refresh(); err != nil {
		return nil, fmt.Errorf("CDI: %w", err)
	}
	for dir, errs := range cache.GetErrors() {
		bklog.L.Warnf("CDI: %s: %v", dir, errors.Join(errs...))
	}
	return cdidevices.NewManager(cache, c.AutoAllowed), nil
}

// parallel bounds the build steps at a time; nil: without bound.
func parallel(n int) *semaphore.Weighted {
	if n <= 0 {
		return nil
	}
	return semaphore.NewWeighted(int64(n))
}

func gcPolicy(c config.GCConfig, root string) []client.PruneInfo {
	if c.GC != nil && !*c.GC {
		return nil
	}
	stat, _ := disk.GetDiskStat(root) // zero makes percentages nothing
	rules := c.GCPolicy
	if len(rules) == 0 {
		rules = config.DefaultGCPolicy(c, stat)
	}
	var out []client.PruneInfo
	for _, r := range rules {
		if r.ReservedSpace == (config.DiskSpace{}) {
			r.ReservedSpace = r.KeepBytes //nolint:staticcheck // older files have it
		}
		out = append(out, client.PruneInfo{
			Filter: r.Filters, All: r.All, KeepDuration: r.KeepDuration.Duration,
			ReservedSpace: r.ReservedSpace.AsBytes(stat), MaxUsedSpace: r.MaxUsedSpace.AsBytes(stat), MinFreeSpace: r.MinFreeSpace.AsBytes(stat),
		})
	}
	return out
}

func formatPlatforms(ps []ocispecs.Platform) []string {
	var out []string
	for _, p := range ps {
		out = append(out, platforms.Format(platforms.Normalize(p)))
	}
	return out
}
