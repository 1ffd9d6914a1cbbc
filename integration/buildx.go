// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// buildxVersion is what integration/tools/buildx requires.
const buildxVersion = "0.36.1"

// InstallBuildx makes `docker buildx` known to the clients of this Env.
func (e *Env) InstallBuildx(t TB) {
	t.Helper()
	bin := buildTool(t, "docker-buildx-"+buildxVersion, "buildx", "github.com/docker/buildx/cmd/buildx",
		"-ldflags", "-s -w -X github.com/docker/buildx/version.Version=v"+buildxVersion)
	if err := os.Symlink(bin, e.Path(t, "docker-config", "cli-plugins", "docker-buildx")); err != nil {
		t.Fatalf("buildx: %v", err)
	}
}

// buildTool builds a program of the module integration/tools/<module>, once per
// machine, into the cache (some minutes). Two processes do not build it twice.
func buildTool(t TB, name, module, pkg string, flags ...string) string {
	t.Helper()
	cache, err := CacheDir()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	bin := filepath.Join(cache, name)
	lock, err := os.Create(bin + ".lock")
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	root, err := RepoRoot()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Logf("building %s", bin)
	cmd := exec.Command("go", append(append([]string{"build", "-trimpath"}, flags...), "-o", bin+".part", pkg)...)
	cmd.Dir = filepath.Join(root, "integration", "tools", module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	runCommand(t, 20*time.Minute, cmd)
	if err := os.Rename(bin+".part", bin); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return bin
}

// BuildKitImage packs our buildkitd into an image that `docker load` takes.
func (e *Env) BuildKitImage(t TB, tag string) (archive string) {
	t.Helper()
	bin := filepath.Dir(e.Binary(t, "buildkitd"))
	e.Buildctl(t)
	archive = e.Path(t, "buildkitd-image.tar")
	runCommand(t, 5*time.Minute, exec.Command(e.Binary(t, "buildkitd/image"), "-bin", bin, "-tag", tag, "-o", archive))
	return archive
}
