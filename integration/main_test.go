// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// bench says that the machine is quiet, and figures are to be kept.
func bench() bool { return os.Getenv("LIGHTER_BENCH") != "" }

// keepFigures writes a measurement to docs/bench, if this is one.
func keepFigures(t *testing.T, name, text string) {
	t.Helper()
	if !bench() {
		return
	}
	root, err := RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "docs", "bench", name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}
