// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func TestMain(m *testing.M) {
	Janitor()
	for _, tool := range []string{"dockerd", "docker", "containerd", "runc", "docker-registry", "debootstrap", "skopeo", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "integration tests need %s: %v (.ci/run installs all that is needed)\n", tool, err)
			os.Exit(1)
		}
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "integration tests start dockerd and need root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}
