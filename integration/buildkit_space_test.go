// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestBuildKitSpace looks at the space that Nydus blobs take: disk usage counts
// them, pruning frees them, and the budget of garbage collection has them in it.
func TestBuildKitSpace(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	b := e.StartBuildKit(t)
	dir := contextDir(t, e, small)
	ref := e.Registry.Ref("space")
	b.Build(t, dir, "")
	before := b.usage(t)
	b.Build(t, dir, nydusOutput(ref))
	var blobs int64
	layers := imageOf(t, ref+"-data").Layers
	for _, l := range layers[:len(layers)-1] {
		blobs += l.Size
	}
	if grown := b.usage(t) - before; grown != blobs {
		t.Errorf("usage grew by %d bytes, the layers have %d", grown, blobs)
	}
	if held := b.heldLayers(t, ref); held != len(layers)-1 {
		t.Errorf("%d of %d blobs are in the store", held, len(layers)-1)
	}
	b.Ctl(t, "prune", "--all")
	b.mustDropLayers(t, ref)
	if left := b.usage(t); left >= blobs {
		t.Errorf("%d bytes are used after pruning everything", left)
	}

	// The files alone fit the budget, the files and their blobs do not. Garbage
	// collection goes the same way, a minute after a build.
	b.Build(t, dir, nydusOutput(ref)+",nydus-compressor=none")
	all := b.usage(t)
	budget := (before + all) / 2 / 1e6
	b.Ctl(t, "prune", "--all", "--keep-storage", fmt.Sprint(all/1e6+2))
	if got := b.usage(t); got != all {
		t.Errorf("%d bytes are used, of %d before pruning that asked for no space", got, all)
	}
	b.Ctl(t, "prune", "--all", "--keep-storage", fmt.Sprint(budget))
	if got := b.usage(t); got > budget*1e6 || before > budget*1e6 {
		t.Errorf("%d bytes are used after pruning to %d MB, before it %d; without blobs there were %d", got, budget, all, before)
	}
	b.Build(t, dir, nydusOutput(ref))
	e.Lighter(t, "check", ref)
}

// heldLayers counts the layers of ref that are in the daemon's content store.
func (b *BuildKit) heldLayers(t *testing.T, ref string) (n int) {
	t.Helper()
	layers := imageOf(t, ref+"-data").Layers
	for _, l := range layers[:len(layers)-1] {
		found, err := filepath.Glob(filepath.Join(b.Root, "runc-*", "content", "blobs", "sha256", l.Digest.Hex))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if _, err := os.Stat(f); err == nil {
				n++
			}
		}
	}
	return n
}

// mustDropLayers waits until collection has freed blobs of ref; it runs after the command that asks for it.
func (b *BuildKit) mustDropLayers(t *testing.T, ref string) {
	t.Helper()
	before := len(imageOf(t, ref+"-data").Layers) - 1
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := waitFor(ctx, "blobs to be freed", func() bool { return b.heldLayers(t, ref) < before }); err != nil {
		t.Errorf("%v: %d are there, %s", err, b.heldLayers(t, ref), b.Ctl(t, "du"))
	}
}
