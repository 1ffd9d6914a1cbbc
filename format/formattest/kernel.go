// SPDX-License-Identifier: Apache-2.0

package formattest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

var kernelOnce sync.Once

// ListWithKernel mounts the image with the EROFS of the running kernel over
// its uncompressed blobs, all of them plain files, and lists it.
func (im *Image) ListWithKernel(t *testing.T) Listing {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	kernelOnce.Do(func() { fmt.Printf("peer Linux EROFS: kernel %s\n", unix.ByteSliceToString(u.Release[:])) })
	boot, devices := im.Devices(t)
	options := ""
	for _, d := range devices {
		options += ",device=" + d
	}
	if options != "" {
		options = options[1:]
	}
	target := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(boot, target, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, options); err != nil {
		t.Fatalf("mount EROFS of %d devices: %v", len(devices), err)
	}
	defer func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	l, err := ListDir(target)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
