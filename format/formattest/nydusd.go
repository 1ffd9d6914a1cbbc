// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peerDeadline is the time that a peer's mount and a listing of it may take.
const peerDeadline = time.Minute

// ListWithNydusd mounts the image with nydusd and lists it. ok is false when
// nydusd is not installed.
func (im *Image) ListWithNydusd(t *testing.T) (l Listing, ok bool) {
	t.Helper()
	tool := Peer(t, "nydusd")
	if tool == "" {
		return nil, false
	}
	dir := t.TempDir()
	for _, d := range []string{"blobs", "cache", "mnt"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for id, p := range im.Blobs {
		writeFile(t, filepath.Join(dir, "blobs"), id, p)
	}
	boot := writeFile(t, dir, "image.boot", im.Bytes)
	config, err := json.Marshal(map[string]any{
		"device": map[string]any{
			"backend": map[string]any{"type": "localfs", "config": map[string]any{"dir": filepath.Join(dir, "blobs")}},
			"cache": map[string]any{"type": "blobcache", "validate": true,
				"config": map[string]any{"work_dir": filepath.Join(dir, "cache")}},
		},
		"mode": "direct", "digest_validate": false, "enable_xattr": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "mnt")
	cmd := exec.Command(tool, "--rlimit-nofile", "0", "--config", writeFile(t, dir, "config.json", config),
		"--bootstrap", boot, "--mountpoint", target, "--log-level", "warn", "--apisock", filepath.Join(dir, "api.sock"))
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Killing the server ends every wait for it, so this is the watchdog too.
	watchdog := time.AfterFunc(peerDeadline, func() { cmd.Process.Kill() })
	defer func() {
		watchdog.Stop()
		unix.Unmount(target, unix.MNT_DETACH)
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			out, _ := os.ReadFile(log.Name())
			t.Logf("nydusd: %s", out)
		}
	}()
	if err := waitMounted(target); err != nil {
		t.Error(err)
		return nil, true
	}
	if l, err = ListDir(target); err != nil {
		t.Error(err)
	}
	return l, true
}

// waitMounted waits until a FUSE file system is mounted at target.
func waitMounted(target string) error {
	const fuseMagic = 0x65735546
	for deadline := time.Now().Add(peerDeadline / 2); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var st unix.Statfs_t
		if unix.Statfs(target, &st) == nil && st.Type == fuseMagic {
			return nil
		}
	}
	return fmt.Errorf("nothing was mounted at %s in time", target)
}
