// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFlagsOverFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "buildkitd.toml")
	err := os.WriteFile(file, []byte(`root = "/from/file"
[grpc]
  address = ["unix:///a", "unix:///b"]
[worker.oci]
  snapshotter = "native"
  max-parallelism = 3
  [worker.oci.labels]
    a = "1"
[registry."r.example"]
  http = true
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	f := newFlags()
	err = f.Parse([]string{"--config", file, "--addr", "unix:///c", "--addr=tcp://127.0.0.1:1", "--oci-worker-labels", "b=2",
		"--oci-worker=true", "--containerd-worker=auto", "--oci-worker-gc-keepstorage", "10,20", "--debug"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	oci := s.Workers.OCI
	if s.Root != "/from/file" || !slices.Equal(s.GRPC.Address, []string{"unix:///c", "tcp://127.0.0.1:1"}) {
		t.Errorf("root %s, addresses %v", s.Root, s.GRPC.Address)
	}
	if oci.Snapshotter != "native" || oci.MaxParallelism != 3 || oci.Labels["a"] != "1" || oci.Labels["b"] != "2" {
		t.Errorf("worker %+v", oci)
	}
	if oci.Enabled == nil || !*oci.Enabled || s.Workers.Containerd.Enabled != nil {
		t.Error("workers are not enabled as asked")
	}
	if oci.GCReservedSpace.Bytes != 10e6 || oci.GCMinFreeSpace.Bytes != 20e6 || oci.GCMaxUsedSpace.Bytes != 0 {
		t.Errorf("storage %+v", oci.GCConfig)
	}
	if s.Log.Level != "debug" || s.Registries["r.example"].PlainHTTP == nil || oci.Mode != "auto" {
		t.Errorf("settings %+v", s)
	}
}

func TestFlagsRefuse(t *testing.T) {
	for _, args := range [][]string{
		{"--oci-worker=perhaps"}, {"--oci-max-parallelism=x"}, {"--oci-worker-labels=a"}, {"--oci-worker-gc-keepstorage=1,2,3,4"}, {"--no-such-flag"},
		{"--group=no-such-group"},
	} {
		if err := newFlags().Parse(args); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	f := newFlags()
	if err := f.Parse([]string{"--allow-insecure-entitlement=all", "--config=/dev/null"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.load(); err == nil {
		t.Error("an unknown entitlement is taken")
	}
}
