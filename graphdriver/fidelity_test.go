// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	moby "github.com/moby/moby/v2/daemon/graphdriver"
	"github.com/moby/moby/v2/daemon/graphdriver/overlay2"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"lighter/format"
	"lighter/format/formattest"
)

// witnesses show what a stack of layers, uncompressed tars with the lowest
// first, becomes elsewhere. dir is empty.
var witnesses = []struct {
	name  formattest.Witness
	links bool // shows true link counts: overlayfs has those of one layer
	show  func(t *testing.T, dir string, layers [][]byte) (formattest.Listing, error)
}{
	{formattest.Containerd, true, containerdApply},
	{formattest.ContainerdOverlay, false, containerdOverlay},
	{formattest.Docker, false, dockerOverlay},
}

// TestFidelity compares the merged tree of every case with what containerd and
// Docker make of the same layers. A case that says why a witness differs must
// really differ from it.
func TestFidelity(t *testing.T) {
	agreed := map[formattest.Witness]int{}
	cases := formattest.Corpus()
	disk := plainDisk(t)
	for i, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			var tars [][]byte
			for _, files := range c.Layers {
				tars = append(tars, formattest.Tar(t, files...))
			}
			ours := merged(t, tars)
			if got := formattest.Short(ours); got != c.Want {
				t.Errorf("merged to\n%.2000swant\n%.2000s", got, c.Want)
			}
			for k, w := range witnesses {
				dir := filepath.Join(disk, fmt.Sprint(i, "-", k)) // without the commas and colons of test names
				must(t, os.Mkdir(dir, 0o755))
				begin := time.Now()
				theirs, err := w.show(t, dir, tars)
				diff := fmt.Sprint("refused: ", err)
				if err == nil {
					diff = differences(ours, theirs, w.links, begin)
				}
				switch why := c.Differs[w.name]; {
				case diff == "" && why == "":
					agreed[w.name]++
				case diff != "" && why == "":
					t.Errorf("%s: %.3000s", w.name, diff)
				case diff == "":
					t.Errorf("%s does not differ, although %s", w.name, why)
				default:
					t.Logf("%s: %s", w.name, why)
				}
			}
		})
	}
	for _, w := range witnesses {
		t.Logf("%s shows %d of %d cases as we do", w.name, agreed[w.name], len(cases))
	}
}

func merged(t *testing.T, tars [][]byte) formattest.Listing {
	t.Helper()
	var in []io.Reader
	for _, l := range tars {
		in = append(in, bytes.NewReader(l))
	}
	im, err := formattest.Build(in, format.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return im.List(t)
}

// differences compares listings, with sub-seconds. A directory whose time is
// that of the unpacking has none of its own.
func differences(ours, theirs formattest.Listing, links bool, begin time.Time) string {
	ours, theirs = slices.Clone(ours), slices.Clone(theirs)
	if !links {
		ours, theirs = ours.WithoutLinks(), theirs.WithoutLinks()
	}
	var extra []string
	for i := range ours {
		k := slices.IndexFunc(theirs, func(e formattest.Entry) bool { return e.Path == ours[i].Path })
		if k < 0 {
			continue
		}
		// A file system's clock is coarser than ours, and can be behind it by a tick.
		now := theirs[k].Mtime >= begin.Add(-time.Second).Unix() && theirs[k].Mtime <= time.Now().Unix()
		if theirs[k].Type == "d" && now {
			theirs[k].Mtime = ours[i].Mtime
		} else if ours[i].Path != "." && ours[i].Nsec != theirs[k].Nsec {
			extra = append(extra, fmt.Sprintf("%s: %d ns, want %d", ours[i].Path, ours[i].Nsec, theirs[k].Nsec))
		}
	}
	return strings.Join(append(extra, formattest.Diff(theirs, ours)), "\n")
}

// containerdApply applies all layers to one directory.
func containerdApply(t *testing.T, dir string, layers [][]byte) (formattest.Listing, error) {
	root := filepath.Join(dir, "root")
	must(t, os.Mkdir(root, 0o755))
	for i, l := range layers {
		if _, err := archive.Apply(t.Context(), root, bytes.NewReader(l)); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return formattest.ListDir(root)
}

// containerdOverlay applies the layers as containerd does for its overlayfs
// snapshotter: all but the lowest with whiteouts of overlayfs.
func containerdOverlay(t *testing.T, dir string, layers [][]byte) (formattest.Listing, error) {
	var below []string // the highest first
	for i, l := range layers {
		upper := filepath.Join(dir, fmt.Sprint(i))
		must(t, os.Mkdir(upper, 0o755))
		var o []archive.ApplyOpt
		if i > 0 {
			o = append(o, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(below))
		}
		if _, err := archive.Apply(t.Context(), upper, bytes.NewReader(l), o...); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		below = slices.Insert(below, 0, upper)
	}
	empty, target := filepath.Join(dir, "empty"), filepath.Join(dir, "mnt")
	must(t, os.Mkdir(empty, 0o755))
	must(t, os.Mkdir(target, 0o755))
	must(t, unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(append(below, empty), ":")))
	defer unix.Unmount(target, unix.MNT_DETACH)
	return formattest.ListOverlayDir(target)
}

// dockerOverlay gives the layers to Docker's own graph driver.
func dockerOverlay(t *testing.T, dir string, layers [][]byte) (formattest.Listing, error) {
	d, err := overlay2.Init(filepath.Join(dir, "overlay2"), nil, user.IdentityMapping{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Cleanup()
	parent := ""
	for i, l := range layers {
		id := fmt.Sprintf("layer%d", i)
		must(t, d.Create(id, parent, &moby.CreateOpts{}))
		if _, err := d.ApplyDiff(id, parent, bytes.NewReader(l)); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		parent = id
	}
	must(t, d.CreateReadWrite("container", parent, &moby.CreateOpts{}))
	root, err := d.Get("container", "")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Put("container")
	return formattest.ListOverlayDir(root)
}
