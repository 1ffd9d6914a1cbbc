// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// buildOutputs writes archives, which hold the full manifest, and refuses
// what cannot be.
func buildOutputs(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, small)
	archive := filepath.Join(t.TempDir(), "image.tar")
	b.Build(t, dir, "type=oci,compression=nydus,dest="+archive)
	e.Lighter(t, "check", "oci-archive:"+archive)
	b.Build(t, dir, "type=image,name="+e.Registry.Ref("none")+",push=true,compression=nydus,nydus-index=none")
	e.Lighter(t, "check", e.Registry.Ref("none"))
	for output, want := range map[string]string{
		"type=image,compression=nydus,nydus-colour=red":     "is unknown",
		"type=image,compression=gzip,nydus-compressor=zstd": "goes with compression=nydus",
	} {
		out, err := b.TryCtl(t, buildArgs(dir, output, nil)...)
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, want an error with %q:\n%s", output, err, want, out)
		}
	}
}
