// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"lighter/convert"
	"lighter/format/formattest"
)

// TestBuildKitOutputs goes through the kinds of output and their attributes,
// with one daemon.
func TestBuildKitOutputs(t *testing.T) {
	e := New(t)
	e.StartRegistry(t)
	b := e.StartBuildKit(t)
	dir := contextDir(t, e, small)
	plain := e.Registry.Ref("plain")
	b.Build(t, dir, plainOutput(plain))
	want := unpacked(t, plain)
	for _, part := range []struct {
		name string
		test func(*testing.T)
	}{
		{"archives", func(t *testing.T) { writeArchives(t, e, b, dir, want) }},
		{"indexes", func(t *testing.T) { writeIndexes(t, e, b, dir, want) }},
		{"attributes", func(t *testing.T) { takeAttributes(t, e, b, dir, want) }},
		{"refused", func(t *testing.T) { refuseAttributes(t, b, dir) }},
		{"attested", func(t *testing.T) { attest(t, e, b, dir) }},
		{"platforms", func(t *testing.T) { buildPlatforms(t, e, b) }},
	} {
		t.Run(part.name, part.test)
	}
}

// writeArchives reads back what the outputs without registry write.
func writeArchives(t *testing.T, e *Env, b *BuildKit, dir string, want formattest.Listing) {
	out := t.TempDir()
	for _, c := range []struct{ output, read string }{
		{"type=oci,name=app:1,dest=" + out + "/oci.tar", "oci-archive:" + out + "/oci.tar"},
		{"type=oci,name=app:1,tar=false,dest=" + out + "/oci", "oci:" + out + "/oci"},
		{"type=docker,name=app:1,dest=" + out + "/docker.tar", "oci-archive:" + out + "/docker.tar"},
	} {
		b.Build(t, dir, c.output+",compression=nydus")
		e.Lighter(t, "check", c.read)
		mustRead(t, want, listed(t, c.read))
	}
	// Another tool reads and copies them as they are.
	to := e.Registry.Ref("copied")
	runCommand(t, time.Minute, exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci-archive:"+out+"/oci.tar", "docker://"+to))
	mustRead(t, want, listed(t, to))
	// Docker's own archives begin with this file.
	manifest := runCommand(t, time.Minute, exec.Command("tar", "-xOf", out+"/docker.tar", "manifest.json"))
	if !strings.Contains(manifest, `"RepoTags":["app:1"]`) {
		t.Errorf("manifest.json is %s", manifest)
	}
}

// writeIndexes looks at what the tag names.
func writeIndexes(t *testing.T, e *Env, b *BuildKit, dir string, want formattest.Listing) {
	none, merged := e.Registry.Ref("none"), e.Registry.Ref("merged")
	b.Build(t, dir, nydusOutput(none)+",nydus-index=none")
	if got := layerTypes(t, none); len(got) < 3 || got[0] != nydusLayer {
		t.Errorf("without index the tag names a manifest of %v", got)
	}
	e.Lighter(t, "check", none)
	b.Build(t, dir, nydusOutput(merged)+",nydus-index=merged")
	e.Lighter(t, "check", merged)
	m := indexOf(t, merged)
	if len(m.Manifests) != 3 {
		t.Fatalf("the merged index has %d entries", len(m.Manifests))
	}
	for i, marked := range []bool{true, true, false} {
		p := m.Manifests[i].Platform
		if p == nil || p.OS != "linux" || slices.Equal(p.OSFeatures, []string{"nydus.remoteimage.v1"}) != marked {
			t.Errorf("entry %d is for %v", i, p)
		}
	}
	ordinary := e.Registry.Host + "/merged@" + m.Manifests[2].Digest.String()
	if got := layerTypes(t, ordinary); len(got) == 0 || got[0] != gzipLayer {
		t.Errorf("the ordinary entry has layers %v", got)
	}
	if d := digestOf(t, merged+"-src"); d != m.Manifests[2].Digest {
		t.Errorf("tag latest-src is %s", d)
	}
	mustRead(t, want, unpacked(t, ordinary))
	mustRead(t, want, listed(t, merged+"-data"))
}

// takeAttributes sets all attributes to what they are not by default.
func takeAttributes(t *testing.T, e *Env, b *BuildKit, dir string, want formattest.Listing) {
	one, two := e.Registry.Ref("attributes:one"), e.Registry.Ref("attributes:two")
	b.Build(t, dir, `type=image,"name=`+one+`,`+two+`",push=true,compression=nydus,oci-mediatypes=true`+
		",force-compression=true,compression-level=9,store=false,annotation.who=lighter"+
		",nydus-compressor=zstd,nydus-chunk-size=0x10000,nydus-fs-version=6,nydus-prefetch=/opt/large:/bin,nydus-index=lazy")
	if digestOf(t, one) != digestOf(t, two) {
		t.Errorf("two names have digests %s and %s", digestOf(t, one), digestOf(t, two))
	}
	e.Lighter(t, "check", one)
	mustRead(t, want, listed(t, two))
	im := imageOf(t, one+"-data")
	if im.Annotations["who"] != "lighter" {
		t.Errorf("the manifest's annotations are %v", im.Annotations)
	}
	if options := im.Layers[0].Annotations["io.lighter.options"]; !strings.Contains(options, "/zstd/9/65536/") {
		t.Errorf("the layers were made with %s", options)
	}
	withImage(t, one, func(o *convert.Opened) error {
		p, err := o.Bootstrap.Prefetch()
		if size := o.Bootstrap.Info().ChunkSize; len(p) != 2 || size != 1<<16 {
			t.Errorf("prefetch table %v, chunks of %d bytes", p, size)
		}
		return err
	})
	for _, attribute := range []string{"nydus-compressor=lz4_block", "nydus-compressor=gzip", "nydus-compressor=none", "nydus-fs-version=5"} {
		b.Build(t, dir, nydusOutput(one)+","+attribute)
		e.Lighter(t, "check", one)
		mustRead(t, want, listed(t, one))
	}
	b.Build(t, dir, nydusOutput(e.Registry.Host+"/digest")+",push-by-digest=true")
	repository, err := name.NewRepository(e.Registry.Host + "/digest")
	if err != nil {
		t.Fatal(err)
	}
	if tags, err := remote.List(repository); err == nil && len(tags) > 0 {
		t.Errorf("pushed by digest there are the tags %v", tags)
	}
}

// refuseAttributes wants errors that name the attribute and what is right.
func refuseAttributes(t *testing.T, b *BuildKit, dir string) {
	var all sync.WaitGroup
	for output, want := range map[string]string{
		"type=image,compression=nydus,nydus-colour=red":                       `"nydus-colour" is unknown; there are nydus-chunk-dict`,
		"type=image,compression=gzip,nydus-compressor=zstd":                   "goes with compression=nydus",
		"type=image,compression=nydus,oci-mediatypes=false":                   "OCI media types only",
		"type=image,compression=nydus,unpack=true":                            "without unpacking",
		"type=image,compression=nydus,compression-level=fast":                 "compression-level=fast: is no whole number",
		"type=image,compression=nydus,force-compression=often":                "force-compression=often: is neither true nor false",
		"type=image,compression=nydus,rewrite-timestamp=now":                  "rewrite-timestamp=now: is neither true nor false",
		"type=image,compression=nydus,store=here":                             "store=here: is neither true nor false",
		"type=image,compression=nydus,name=UPPER":                             "name=UPPER: ",
		"type=image,compression=nydus,nydus-compressor=brotli":                "nydus-compressor=brotli: is none of [zstd lz4_block gzip none]",
		"type=image,compression=nydus,nydus-chunk-size=3":                     "nydus-chunk-size=3: is no power of two",
		"type=image,compression=nydus,nydus-fs-version=7":                     "nydus-fs-version=7: is no version",
		"type=image,compression=nydus,nydus-chunk-dict=a.example/d":           "nydus-chunk-dict=a.example/d: ",
		"type=image,compression=nydus,nydus-prefetch=opt":                     "nydus-prefetch=opt: path \"opt\" does not begin with a slash",
		"type=image,compression=nydus,nydus-index=all":                        "nydus-index=all: is none of lazy, merged, none",
		"type=oci,dest=" + os.DevNull + ",compression=nydus,nydus-index=lazy": "archives hold the full manifest alone",
	} {
		all.Go(func() { // each waits some seconds for the status of a build that is none
			out, err := b.TryCtl(t, buildArgs(dir, output, nil)...)
			if err == nil || !strings.Contains(out, want) {
				t.Errorf("%s: %v, want an error with %q:\n%s", output, err, want, out)
			}
		})
	}
	all.Wait()
}

// scan writes what a scanner would say of one file.
const scan = `echo '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"spdxVersion":"SPDX-2.3",
"dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"sbom","documentNamespace":"https://a.example/sbom",
"creationInfo":{"created":"2024-01-01T00:00:00Z","creators":["Tool: scan"]},
"files":[{"fileName":"/opt/small","SPDXID":"SPDXRef-1","checksums":[]}]}}' >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json
`

// attest builds with provenance and a bill of materials by a scanner of ours.
func attest(t *testing.T, e *Env, b *BuildKit, dir string) {
	scanner := contextDir(t, e, "FROM scratch\nADD rootfs.tar /\nCOPY scan.sh /\nCMD [\"/bin/sh\", \"/scan.sh\"]\n")
	if err := os.WriteFile(filepath.Join(scanner, "scan.sh"), []byte(scan), 0o644); err != nil {
		t.Fatal(err)
	}
	generator, ref := e.Registry.Ref("scanner"), e.Registry.Ref("attested")
	b.Build(t, scanner, plainOutput(generator))
	b.Build(t, dir, nydusOutput(ref), "--opt", "attest:provenance=mode=max", "--opt", "attest:sbom=generator="+generator)
	e.Lighter(t, "check", ref)
	idx := indexOf(t, ref)
	if len(idx.Manifests) != 3 {
		t.Fatalf("the index has %d entries", len(idx.Manifests))
	}
	about, full := idx.Manifests[2], idx.Manifests[1]
	if got := about.Annotations["vnd.docker.reference.digest"]; got != full.Digest.String() {
		t.Errorf("the attestations are about %s, the full manifest is %s", got, full.Digest)
	}
	repository := e.Registry.Host + "/attested@"
	seen := map[string]string{}
	for _, l := range imageOf(t, repository+about.Digest.String()).Layers {
		text := blobText(t, repository+l.Digest.String())
		if !strings.Contains(text, `"subject":[{"name":"pkg:docker/`) || !strings.Contains(text, full.Digest.Hex) {
			t.Errorf("the statement is not about the image:\n%s", text)
		}
		seen[l.Annotations["in-toto.io/predicate-type"]] = text
	}
	if s := seen["https://slsa.dev/provenance/v1"] + seen["https://slsa.dev/provenance/v0.2"]; !strings.Contains(s, "buildConfig") && !strings.Contains(s, "buildDefinition") {
		t.Errorf("provenance is %s", s)
	}
	// The file's layer is told by its Nydus blob.
	layer := imageOf(t, repository+full.Digest.String()).Layers[2].Digest.String()
	if s := seen["https://spdx.dev/Document"]; !strings.Contains(s, "layerID: "+layer) {
		t.Errorf("want layer %s in the bill of materials:\n%s", layer, s)
	}
}

// buildPlatforms builds for two platforms at once, by either kind of output.
func buildPlatforms(t *testing.T, e *Env, b *BuildKit) {
	dir := contextDir(t, e, "FROM scratch\nARG TARGETARCH\nADD rootfs.tar /$TARGETARCH/\nCOPY from-context /opt/\n")
	ref, plain := e.Registry.Ref("platforms"), e.Registry.Ref("platforms-plain")
	b.Build(t, dir, nydusOutput(ref), "--output", plainOutput(plain), "--opt", "platform=linux/amd64,linux/arm64")
	idx := indexOf(t, ref)
	if len(idx.Manifests) != 4 {
		t.Fatalf("the index has %d entries", len(idx.Manifests))
	}
	for i, p := range []string{"linux/amd64", "linux/amd64", "linux/arm64", "linux/arm64"} {
		if got := idx.Manifests[i].Platform; got.OS+"/"+got.Architecture != p {
			t.Errorf("entry %d is for %v, want %s", i, got, p)
		}
	}
	for i, d := range indexOf(t, plain).Manifests {
		lazy := idx.Manifests[2*i+1].Digest.String()
		mustRead(t, unpacked(t, e.Registry.Host+"/platforms-plain@"+d.Digest.String()), listed(t, e.Registry.Host+"/platforms@"+lazy))
	}
}

func indexOf(t *testing.T, ref string) *v1.IndexManifest {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Index(r)
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func imageOf(t *testing.T, ref string) *v1.Manifest {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(r)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(d.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	return &m
}

func blobText(t *testing.T, ref string) string {
	t.Helper()
	r, err := name.NewDigest(ref)
	if err != nil {
		t.Fatal(err)
	}
	l, err := remote.Layer(r)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
