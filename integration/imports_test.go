// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// forbidden lists the edges that the import diagram does not have, each with
// the reason why. "from" and "to" match a package and all below it, without
// those that follow " except ". An edge counts in tests too, unless "code" is
// set, and through other packages if "deep" is set.
var forbidden = []struct {
	from, to   string
	code, deep bool
	reason     string
}{
	{from: "lighter/format", to: "lighter except lighter/format", reason: "format knows bytes on disk, and nothing of who reads them"},
	{from: "lighter/format", to: "net/http", code: true, deep: true, reason: "format takes io.ReaderAt and io.Writer; where bytes come from is not its matter"},
	{from: "lighter/lazyfs/backend", to: "lighter except lighter/lazyfs/backend", reason: "a backend fits lazyfs.Source by its shape"},
	{from: "lighter/lazyfs/keeper", to: "lighter except lighter/lazyfs/keeper", code: true, reason: "the process that must outlive all others holds as little code as possible"},
	{from: "lighter/lazyfs/cache", to: "lighter except lighter/lazyfs/cache lighter/format", reason: "the cache stores verified bytes and knows no images"},
	{from: "lighter/lazyfs/fusefs", to: "lighter except lighter/lazyfs/fusefs lighter/lazyfs/lazyfstest lighter/format", code: true, reason: "a face serves any Image, by an interface of its own"},
	{from: "lighter/lazyfs", to: "lighter/graphdriver", reason: "the engine does not know its users"},
	{from: "lighter/lazyfs", to: "lighter/convert", code: true, reason: "reading does not depend on making"},
	{from: "lighter/lazyfs except lighter/lazyfs/backend", to: "github.com/google/go-containerregistry", code: true, reason: "only a backend speaks to registries"},
	{from: "lighter/graphdriver", to: "lighter/lazyfs", reason: "the driver sees the lazy side through its own two-method Mounter"},
	{from: "lighter/graphdriver", to: "lighter/convert", code: true, reason: "pulling does not depend on making"},
	{from: "lighter/convert", to: "lighter/lazyfs", code: true, reason: "making does not depend on mounting"},
	{from: "lighter/convert", to: "lighter/graphdriver", reason: "making does not depend on Docker's driver"},
	{from: "lighter except lighter/graphdriver lighter/integration", to: "github.com/moby/moby", reason: "Docker's own packages stay where Docker is spoken"},
	{from: "lighter", to: "github.com/docker/docker", deep: true, reason: "the old module path would bring a second copy of Docker"},
	{from: "lighter except lighter/lazyfs/fusefs lighter/lazyfs/mounts lighter/lazyfs/keeper", to: "github.com/hanwen/go-fuse", code: true, reason: "FUSE is one face of several"},
	{from: "lighter except lighter/exporter lighter/buildkitd", to: "github.com/moby/buildkit", code: true, reason: "BuildKit's dependencies stay out of the tool and of the plugin"},
	{from: "lighter/exporter", to: "lighter/graphdriver", deep: true, reason: "building does not depend on Docker's driver"},
	{from: "lighter/buildkitd", to: "lighter except lighter/buildkitd lighter/exporter", code: true, reason: "the daemon puts BuildKit together and has no logic of its own"},
	{from: "lighter except lighter/integration lighter/lazyfs/backend", to: "lighter/integration", reason: "tests use the product, not the other way round"},
	{from: "lighter except lighter/integration lighter/format/formattest lighter/lazyfs/backend/backendtest lighter/lazyfs/lazyfstest lighter/graphdriver/drivertest", to: "testing", code: true, reason: "test harness is not shipped"},
}

type goPackage struct {
	ImportPath                               string
	Imports, TestImports, XTestImports, Deps []string
}

func TestImports(t *testing.T) {
	root, err := RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		for _, f := range forbidden {
			if !within(p.ImportPath, f.from) {
				continue
			}
			edges := p.Imports
			if !f.code {
				edges = append(append(edges, p.TestImports...), p.XTestImports...)
			}
			if f.deep {
				edges = append(edges, p.Deps...)
			}
			for _, e := range edges {
				if within(e, f.to) {
					t.Errorf("%s imports %s: %s", p.ImportPath, e, f.reason)
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d packages looked at", seen)
	}
}

// within says whether pkg is in a set, written "top" or "top except top top …".
func within(pkg, set string) bool {
	top, except, _ := strings.Cut(set, " except ")
	if !below(pkg, top) {
		return false
	}
	for _, e := range strings.Fields(except) {
		if below(pkg, e) {
			return false
		}
	}
	return true
}

func below(pkg, top string) bool { return pkg == top || strings.HasPrefix(pkg, top+"/") }

func TestImportSets(t *testing.T) {
	for _, c := range []struct {
		pkg, set string
		want     bool
	}{
		{"lighter/format", "lighter/format", true}, {"lighter/format/x", "lighter/format", true}, {"lighter/formatting", "lighter/format", false},
		{"lighter/lazyfs/backend", "lighter/lazyfs except lighter/lazyfs/backend", false}, {"lighter/lazyfs", "lighter/lazyfs except lighter/lazyfs/backend", true},
	} {
		if got := within(c.pkg, c.set); got != c.want {
			t.Errorf("within(%q, %q) = %v", c.pkg, c.set, got)
		}
	}
}
