// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/sys/userns"
	"github.com/spf13/pflag"
)

// settings is the configuration file with the flags over it, and what has no
// place in the file.
type settings struct {
	config.Config
	saveCacheDebug bool
}

// flagSet collects what the flags change, to be done over the configuration
// file once that is read.
type flagSet struct {
	*pflag.FlagSet
	changes []func(*settings) error
	seen    map[string]bool
}

func (f *flagSet) text(name, usage string, field func(*settings) *string) {
	f.Func(name, usage, func(v string) error {
		f.changes = append(f.changes, func(s *settings) error { *field(s) = v; return nil })
		return nil
	})
}

func (f *flagSet) number(name, usage string, field func(*settings) *int) {
	f.Func(name, usage, func(v string) error {
		n, err := strconv.Atoi(v)
		f.changes = append(f.changes, func(s *settings) error { *field(s) = n; return nil })
		return err
	})
}

func (f *flagSet) bool(name, usage string, set func(*settings, bool)) {
	f.BoolFunc(name, usage, func(v string) error {
		b, err := strconv.ParseBool(v)
		f.changes = append(f.changes, func(s *settings) error { set(s, b); return nil })
		return err
	})
}

// list replaces the file's values; a flag given again adds to its own.
func (f *flagSet) list(name, usage string, field func(*settings) *[]string) {
	f.Func(name, usage, func(v string) error {
		first := !f.seen[name]
		f.seen[name] = true
		f.changes = append(f.changes, func(s *settings) error {
			if first {
				*field(s) = nil
			}
			*field(s) = append(*field(s), v)
			return nil
		})
		return nil
	})
}

// auto is true, false, or left to what the machine has.
func (f *flagSet) auto(name, usage string, field func(*settings) **bool) {
	f.Func(name, usage+" (true, false or auto)", func(v string) error {
		var set *bool
		if v != "" && v != "auto" {
			b, err := strconv.ParseBool(v)
			if err != nil {
				return err
			}
			set = &b
		}
		f.changes = append(f.changes, func(s *settings) error { *field(s) = set; return nil })
		return nil
	})
}

func (f *flagSet) labels(name, usage string, field func(*settings) *map[string]string) {
	f.Func(name, usage+" (key=value)", func(v string) error {
		key, value, ok := strings.Cut(v, "=")
		if !ok {
			return errors.New("is no key=value")
		}
		f.changes = append(f.changes, func(s *settings) error {
			if *field(s) == nil {
				*field(s) = map[string]string{}
			}
			(*field(s))[key] = value
			return nil
		})
		return nil
	})
}

// newFlags is the table of all flags; names are those of the stock daemon.
func newFlags() *flagSet {
	f := &flagSet{FlagSet: pflag.NewFlagSet("buildkitd", pflag.ContinueOnError), seen: map[string]bool{}}
	f.SortFlags = false
	f.String("config", defaultConfigPath(), "path to the configuration file")
	f.Bool("version", false, "print the version and end")
	f.text("root", "directory of the state", func(s *settings) *string { return &s.Root })
	f.list("addr", "address to listen on, unix://, tcp:// or fd://", func(s *settings) *[]string { return &s.GRPC.Address })
	f.Func("group", "group, by name or number, that owns the Unix sockets", func(v string) error {
		gid, err := groupID(v)
		f.changes = append(f.changes, func(s *settings) error { s.GRPC.GID = &gid; return nil })
		return err
	})
	f.text("debugaddr", "address for metrics and profiles, such as 127.0.0.1:6060", func(s *settings) *string { return &s.GRPC.DebugAddress })
	f.text("tlscert", "certificate to show", func(s *settings) *string { return &s.GRPC.TLS.Cert })
	f.text("tlskey", "key of the certificate", func(s *settings) *string { return &s.GRPC.TLS.Key })
	f.text("tlscacert", "certificate of the authority that clients are verified by", func(s *settings) *string { return &s.GRPC.TLS.CA })
	f.bool("debug", "log more", func(s *settings, b bool) {
		if b {
			s.Log.Level = "debug"
		}
	})
	f.bool("trace", "log very much", func(s *settings, b bool) {
		if b {
			s.Log.Level = "trace"
		}
	})
	f.text("log-level", "level of the log", func(s *settings) *string { return &s.Log.Level })
	f.text("log-format", "form of the log, text or json", func(s *settings) *string { return &s.Log.Format })
	f.list("allow-insecure-entitlement", "entitlement to allow: network.host, security.insecure, device", func(s *settings) *[]string { return &s.Entitlements })
	f.bool("proxy-network", "enforce the proxy network for all builds", func(s *settings, b bool) { s.ProxyNetwork = b })
	f.text("otel-socket-path", "socket of the trace collector", func(s *settings) *string { return &s.OTEL.SocketPath })
	f.bool("cdi-disabled", "do without the Container Device Interface", func(s *settings, b bool) { s.CDI.Disabled = &b })
	f.list("cdi-spec-dir", "directory with CDI specifications", func(s *settings) *[]string { return &s.CDI.SpecDirs })
	f.bool("save-cache-debug", "keep what cache keys are made of", func(s *settings, b bool) { s.saveCacheDebug = b })
	f.bool("rootless", "settings for a rootless daemon", func(s *settings, b bool) { s.Workers.OCI.Rootless, s.Workers.Containerd.Rootless = b, b })
	f.ociFlags()
	f.containerdFlags()
	return f
}

func (f *flagSet) ociFlags() {
	oci := func(s *settings) *config.OCIConfig { return &s.Workers.OCI }
	f.auto("oci-worker", "use runc", func(s *settings) **bool { return &oci(s).Enabled })
	f.labels("oci-worker-labels", "label of the worker", func(s *settings) *map[string]string { return &oci(s).Labels })
	f.text("oci-worker-snapshotter", "snapshotter: auto, overlayfs, fuse-overlayfs or native", func(s *settings) *string { return &oci(s).Snapshotter })
	f.text("oci-worker-proxy-snapshotter-path", "socket of a snapshotter, without unix://", func(s *settings) *string { return &oci(s).ProxySnapshotterPath })
	f.list("oci-worker-platform", "platform to build for", func(s *settings) *[]string { return &oci(s).Platforms })
	f.text("oci-worker-net", "network: auto, bridge, cni or host", func(s *settings) *string { return &oci(s).Mode })
	f.text("oci-cni-config-path", "configuration of CNI", func(s *settings) *string { return &oci(s).CNIConfigPath })
	f.text("oci-cni-binary-dir", "programs of CNI", func(s *settings) *string { return &oci(s).CNIBinaryPath })
	f.number("oci-cni-pool-size", "network namespaces made ahead", func(s *settings) *int { return &oci(s).CNIPoolSize })
	f.text("oci-worker-binary", "runtime in place of runc", func(s *settings) *string { return &oci(s).Binary })
	f.text("oci-worker-apparmor-profile", "AppArmor profile of build containers", func(s *settings) *string { return &oci(s).ApparmorProfile })
	f.bool("oci-worker-selinux", "set SELinux labels", func(s *settings, b bool) { oci(s).SELinux = b })
	f.number("oci-max-parallelism", "build steps at a time", func(s *settings) *int { return &oci(s).MaxParallelism })
	f.bool("oci-worker-rootless", "run without root, within a user namespace", func(s *settings, b bool) { oci(s).Rootless = b })
	f.bool("oci-worker-no-process-sandbox", "let build containers see the host's processes (dangerous)", func(s *settings, b bool) { oci(s).NoProcessSandbox = b })
	f.bool("oci-worker-gc", "collect garbage", func(s *settings, b bool) { oci(s).GC = &b })
	f.storage("oci-worker-gc-keepstorage", func(s *settings) *config.GCConfig { return &oci(s).GCConfig })
}

func (f *flagSet) containerdFlags() {
	ctd := func(s *settings) *config.ContainerdConfig { return &s.Workers.Containerd }
	f.auto("containerd-worker", "use containerd", func(s *settings) **bool { return &ctd(s).Enabled })
	f.text("containerd-worker-addr", "socket of containerd", func(s *settings) *string { return &ctd(s).Address })
	f.labels("containerd-worker-labels", "label of the worker", func(s *settings) *map[string]string { return &ctd(s).Labels })
	f.list("containerd-worker-platform", "platform to build for", func(s *settings) *[]string { return &ctd(s).Platforms })
	f.text("containerd-worker-namespace", "namespace of containerd", func(s *settings) *string { return &ctd(s).Namespace })
	f.text("containerd-worker-runtime", "runtime of containerd", func(s *settings) *string { return &ctd(s).Runtime.Name })
	f.text("containerd-worker-net", "network: auto, bridge, cni or host", func(s *settings) *string { return &ctd(s).Mode })
	f.text("containerd-cni-config-path", "configuration of CNI", func(s *settings) *string { return &ctd(s).CNIConfigPath })
	f.text("containerd-cni-binary-dir", "programs of CNI", func(s *settings) *string { return &ctd(s).CNIBinaryPath })
	f.number("containerd-cni-pool-size", "network namespaces made ahead", func(s *settings) *int { return &ctd(s).CNIPoolSize })
	f.text("containerd-worker-snapshotter", "snapshotter of containerd", func(s *settings) *string { return &ctd(s).Snapshotter })
	f.text("containerd-worker-apparmor-profile", "AppArmor profile of build containers", func(s *settings) *string { return &ctd(s).ApparmorProfile })
	f.bool("containerd-worker-selinux", "set SELinux labels", func(s *settings, b bool) { ctd(s).SELinux = b })
	f.number("containerd-max-parallelism", "build steps at a time", func(s *settings) *int { return &ctd(s).MaxParallelism })
	f.bool("containerd-worker-rootless", "run without root, within a user namespace", func(s *settings, b bool) { ctd(s).Rootless = b })
	f.bool("containerd-worker-gc", "collect garbage", func(s *settings, b bool) { ctd(s).GC = &b })
	f.storage("containerd-worker-gc-keepstorage", func(s *settings) *config.GCConfig { return &ctd(s).GCConfig })
}

// storage takes up to three numbers of megabytes.
func (f *flagSet) storage(name string, field func(*settings) *config.GCConfig) {
	f.Func(name, "storage in MB: reserved[,free[,maximum]]", func(v string) error {
		var sizes [3]config.DiskSpace
		parts := strings.Split(v, ",")
		if len(parts) > len(sizes) {
			return errors.New("has more than three numbers")
		}
		for i, p := range parts {
			n, err := strconv.ParseInt(p, 10, 64)
			if err != nil {
				return err
			}
			sizes[i] = config.DiskSpace{Bytes: n * 1e6}
		}
		f.changes = append(f.changes, func(s *settings) error {
			c := field(s)
			c.GCReservedSpace, c.GCMinFreeSpace, c.GCMaxUsedSpace = sizes[0], sizes[1], sizes[2]
			return nil
		})
		return nil
	})
}

// load reads the configuration file, applies the flags and fills in what
// neither says. A file that is missing is empty, as it is to the stock daemon.
func (f *flagSet) load() (*settings, error) {
	path, err := f.GetString("config")
	if err != nil {
		return nil, err
	}
	cfg, err := config.LoadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	s := &settings{Config: cfg}
	if cfg.Debug { //nolint:staticcheck // older files have it
		s.Log.Level = "debug"
	}
	if cfg.Trace { //nolint:staticcheck // older files have it
		s.Log.Level = "trace"
	}
	for _, change := range f.changes {
		if err := change(s); err != nil {
			return nil, err
		}
	}
	s.complete()
	if s.Root, err = filepath.Abs(s.Root); err != nil {
		return nil, err
	}
	for _, e := range s.Entitlements {
		switch e {
		case "security.insecure", "network.host", "device":
		default:
			return nil, fmt.Errorf("entitlement %q is unknown", e)
		}
	}
	return s, nil
}

// complete fills in the defaults.
func (s *settings) complete() {
	root, address, cni := appdefaults.Root, appdefaults.Address, appdefaults.DefaultCNIConfigPath
	if rootless() {
		root, address, cni = appdefaults.UserRoot(), appdefaults.UserAddress(), appdefaults.UserCNIConfigPath
	}
	s.Root = or(s.Root, root)
	if len(s.GRPC.Address) == 0 {
		s.GRPC.Address = []string{address}
	}
	uid, gid := os.Getuid(), os.Getgid()
	if s.GRPC.UID == nil {
		s.GRPC.UID = &uid
	}
	if s.GRPC.GID == nil {
		s.GRPC.GID = &gid
	}
	s.Log.Level = or(s.Log.Level, or(os.Getenv("BUILDKITD_LOG_LEVEL"), "info"))
	s.GRPC.DebugAddress = or(s.GRPC.DebugAddress, os.Getenv("BUILDKITD_DEBUGADDR"))
	s.OTEL.SocketPath = or(s.OTEL.SocketPath, appdefaults.TraceSocketPath(rootless()))
	if len(s.CDI.SpecDirs) == 0 {
		s.CDI.SpecDirs = appdefaults.CDISpecDirs
	}
	oci, ctd := &s.Workers.OCI, &s.Workers.Containerd
	for _, n := range []*config.NetworkConfig{&oci.NetworkConfig, &ctd.NetworkConfig} {
		n.Mode = or(n.Mode, "auto")
		n.CNIConfigPath = or(n.CNIConfigPath, cni)
		n.CNIBinaryPath = or(n.CNIBinaryPath, appdefaults.DefaultCNIBinDir)
		n.BridgeName = or(n.BridgeName, appdefaults.BridgeName)
		n.BridgeSubnet = or(n.BridgeSubnet, appdefaults.BridgeSubnet)
	}
	for _, p := range []*[]string{&oci.Platforms, &ctd.Platforms} {
		if *p == nil {
			*p = formatPlatforms(archutil.SupportedPlatforms(false))
		}
	}
	oci.Snapshotter = or(oci.Snapshotter, "auto")
	if userns.RunningInUserNS() {
		oci.Rootless, ctd.Rootless = true, true
	}
	ctd.Address = or(ctd.Address, defaults.DefaultAddress)
	ctd.Namespace = or(ctd.Namespace, "buildkit")
	ctd.Snapshotter = or(ctd.Snapshotter, defaults.DefaultSnapshotter)
}

func or(v, other string) string {
	if v == "" {
		return other
	}
	return v
}

// rootless says whether defaults are those of a user: within a user namespace,
// unless that belongs to root.
func rootless() bool {
	u := os.Getenv("USER")
	return userns.RunningInUserNS() && u != "" && u != "root"
}

func defaultConfigPath() string {
	if rootless() {
		return filepath.Join(appdefaults.UserConfigDir(), "buildkitd.toml")
	}
	return filepath.Join(appdefaults.ConfigDir, "buildkitd.toml")
}

func groupID(group string) (int, error) {
	if n, err := strconv.Atoi(group); err == nil {
		return n, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}
