// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/format/formattest"
)

func TestVerbs(t *testing.T) {
	dir := t.TempDir()
	name := "oci:" + dir + "/x:lazy"
	out := must(t, "convert", golden(t, "src"), name)
	if !strings.HasPrefix(out, name+"@sha256:") || !strings.Contains(out, "3 layers converted, 0 reused") {
		t.Errorf("convert wrote %q", out)
	}
	if out = must(t, "convert", golden(t, "src"), name); !strings.Contains(out, "0 layers converted, 3 reused") {
		t.Errorf("convert again wrote %q", out)
	}
	var result struct {
		Digest    string
		Platforms []struct{ Full string }
	}
	decode(t, must(t, "convert", "--json", golden(t, "src"), name), &result)
	if len(result.Platforms) != 1 || result.Digest == "" {
		t.Errorf("convert --json gave %+v", result)
	}
	if out = must(t, "check", name); !strings.Contains(out, "ok: ") {
		t.Errorf("check wrote %q", out)
	}
	if out = must(t, "check", "--metadata-only", name); !strings.Contains(out, "0 chunks verified") {
		t.Errorf("check --metadata-only wrote %q", out)
	}
	if out = must(t, "check", golden(t, "src")); !strings.Contains(out, "not accelerated") {
		t.Errorf("check of an ordinary image wrote %q", out)
	}
	var in inspected
	decode(t, must(t, "inspect", "--json", name), &in)
	if in.Kind != "nydus" || in.FS == nil || in.FS.Inodes != 105 || len(in.Layers) != 4 || in.Digest != result.Platforms[0].Full {
		t.Errorf("inspect --json gave %+v", in)
	}
	for _, image := range []string{name, golden(t, "src")} {
		if out = must(t, "inspect", image); !strings.Contains(out, "manifest") {
			t.Errorf("inspect wrote %q", out)
		}
	}
	copied := "oci-archive:" + dir + "/x.tar:lazy"
	if out = must(t, "copy", name, copied); !strings.Contains(out, result.Digest) {
		t.Errorf("copy wrote %q", out)
	}
	must(t, "check", copied)
}

// TestExportDiff exports an image in all forms and compares the results.
func TestExportDiff(t *testing.T) {
	dir := t.TempDir()
	name := "oci:" + dir + "/x:kept"
	must(t, "convert", "--keep-tar", golden(t, "src"), name)
	if out := must(t, "check", name, "--against", golden(t, "src")); !strings.Contains(out, "entries are those of") {
		t.Errorf("check --against wrote %q", out)
	}
	if out := must(t, "diff", name, golden(t, "src")); out != "" {
		t.Errorf("diff wrote %q", out)
	}
	out, stderr, code := lighter(t, "diff", "--json", golden(t, "v6-zstd"), name)
	if code != exitFailed || strings.Count(out, "\n") != 1 || !strings.Contains(out, `{"path":"/bin/su2","change":"changed","what":["mtime"]}`) || !strings.Contains(stderr, "differ in 1 paths") {
		t.Errorf("diff --json wrote %q, %q and ended with %d", out, stderr, code)
	}
	tarFile := filepath.Join(dir, "x.tar")
	if out := must(t, "export", name, "--tar", tarFile); !strings.Contains(out, "105 entries") {
		t.Errorf("export --tar wrote %q", out)
	}
	raw, err := os.ReadFile(tarFile)
	if err != nil {
		t.Fatal(err)
	}
	if out := must(t, "export", name, "--tar", "-"); out != string(raw) {
		t.Error("export --tar - wrote other bytes than into a file")
	}
	must(t, "export", name, "--dir", filepath.Join(dir, "root"))
	want, err := formattest.ReadListing(filepath.Join(formattest.Golden(t), "oci.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := formattest.ListDir(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	if d := formattest.Diff(want, got); d != "" {
		t.Error(d)
	}
	if out := must(t, "export", name, "--image", "oci:"+dir+"/y:1"); strings.Count(out, "bytes") != 3 {
		t.Errorf("export --image wrote %q", out)
	}
	must(t, "diff", "oci:"+dir+"/y:1", golden(t, "src"))
	for _, args := range [][]string{{"export", name}, {"export", name, "--tar", "a", "--dir", "b"}, {"export", "--bootstrap", "x", "--image", "y"}, {"diff", name}, {"ls", "--blobs", "x", "y"}} {
		if _, _, code := lighter(t, args...); code != exitUsage {
			t.Errorf("%q ended with %d", args, code)
		}
	}
}

// TestBare looks into a bootstrap that is not part of an image.
func TestBare(t *testing.T) {
	dir := filepath.Join(formattest.Golden(t), "dir-v6-zstd")
	at := []string{"--bootstrap", filepath.Join(dir, "bootstrap"), "--blobs", dir}
	all := must(t, append([]string{"ls", "-R"}, at...)...)
	if strings.Count(all, "\n") < 1000 {
		t.Errorf("ls wrote %.200q", all)
	}
	if out := must(t, append([]string{"inspect"}, at...)...); !strings.Contains(out, "RAFS v6") {
		t.Errorf("inspect wrote %q", out)
	}
	out := filepath.Join(t.TempDir(), "root")
	must(t, append([]string{"export", "--dir", out}, at...)...)
	want, err := formattest.ReadListing(filepath.Join(formattest.Golden(t), "dir.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := formattest.ListDir(out)
	if err != nil {
		t.Fatal(err)
	}
	if d := formattest.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func decode(t *testing.T, s string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), v); err != nil {
		t.Fatalf("%v in %q", err, s)
	}
}

func TestDefaultTarget(t *testing.T) {
	dir := t.TempDir()
	must(t, "copy", golden(t, "src"), "oci:"+dir+"/x:1")
	must(t, "convert", "oci:"+dir+"/x:1")
	must(t, "check", "oci:"+dir+"/x:1-nydus")
	must(t, "check", "oci:"+dir+"/x:1-nydus-boot")
	must(t, "convert", "--suffix", "-fast", "--index", "none", "--compressor", "lz4_block", "oci:"+dir+"/x:1")
	must(t, "check", "oci:"+dir+"/x:1-fast")
	must(t, "check", "oci:"+dir+"/x")
}

// TestLsCat compares what ls and cat tell with the golden listing.
func TestLsCat(t *testing.T) {
	want, err := formattest.ReadListing(filepath.Join(formattest.Golden(t), "oci.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"v6-zstd", "v6-lz4_block", "v6-none"} {
		lines := strings.Split(strings.TrimSpace(must(t, "ls", "-R", "--json", golden(t, tag))), "\n")
		if len(lines) != len(want)-1 {
			t.Errorf("%s: ls shows %d entries, not %d", tag, len(lines), len(want)-1)
		}
		long := must(t, "ls", "-l", "-R", golden(t, tag))
		if n := strings.Count(long, "\n"); n != len(lines) {
			t.Errorf("%s: ls -l shows %d lines for %d entries", tag, n, len(lines))
		}
	}
	files := 0
	for _, e := range want {
		if e.Type != "f" || strings.Contains(e.Path, "%") || e.SHA256 == "" {
			continue
		}
		files++
		sum := sha256.Sum256([]byte(must(t, "cat", golden(t, "v6-zstd"), e.Path)))
		if hex.EncodeToString(sum[:]) != e.SHA256 {
			t.Errorf("cat %s gives other bytes", e.Path)
		}
	}
	if files < 20 {
		t.Errorf("only %d files were read", files)
	}
	if a, b := must(t, "cat", golden(t, "v6-zstd"), "/empty/su"), must(t, "cat", golden(t, "v6-zstd"), "/bin/su"); a != b || a == "" {
		t.Errorf("through a link %q, directly %q", a, b)
	}
	if one := must(t, "ls", golden(t, "v6-zstd"), "/bin/su"); one != "/bin/su\n" {
		t.Errorf("ls of a file shows %q", one)
	}
	if some := must(t, "ls", golden(t, "v6-zstd"), "bin"); some != "alias\nsgid\nsu\nsu2\n" {
		t.Errorf("ls bin shows %q", some)
	}
}

// TestCheckBare checks golden bootstraps without any manifest.
func TestCheckBare(t *testing.T) {
	for _, d := range []string{"dir-v6-zstd", "dir-v6-lz4_block", "dir-v6-batch"} {
		dir := filepath.Join(formattest.Golden(t), d)
		must(t, "check", "--bootstrap", dir+"/bootstrap")
		if out := must(t, "check", "--bootstrap", dir+"/bootstrap", "--blobs", dir); strings.Contains(out, " 0 chunks verified") {
			t.Errorf("%s: %q", d, out)
		}
		bad := t.TempDir()
		raw, err := os.ReadFile(dir + "/bootstrap")
		if err != nil {
			t.Fatal(err)
		}
		table := binary.LittleEndian.Uint64(raw[1152+24:]) // offset of the chunk table, digests first
		raw[table+80*100+10] ^= 4
		if err := os.WriteFile(bad+"/bootstrap", raw, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := lighter(t, "check", "--bootstrap", bad+"/bootstrap", "--blobs", dir); code != exitFailed {
			t.Errorf("%s: a flipped byte passes: %s", d, errs)
		}
	}
	dir := filepath.Join(formattest.Golden(t), "dir-v5-zstd")
	if out, errs, code := lighter(t, "check", "--bootstrap", dir+"/bootstrap", "--blobs", dir); code != exitDone {
		t.Errorf("v5: %s%s", out, errs)
	}
}

// TestCheckReports shows problems on standard output and the first on standard error.
func TestCheckReports(t *testing.T) {
	dir := t.TempDir()
	must(t, "copy", golden(t, "v6-zstd"), "oci:"+dir+"/x:1")
	var blob string
	var in inspected
	decode(t, must(t, "inspect", "--json", golden(t, "v6-zstd")), &in)
	blob = filepath.Join(dir, "x", "blobs", "sha256", strings.TrimPrefix(in.Layers[0].Digest, "sha256:"))
	raw, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	raw[1000] ^= 1
	if err := os.WriteFile(blob, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	out, errs, code := lighter(t, "check", "oci:"+dir+"/x:1")
	if code != exitFailed || !strings.Contains(out, "problem: ") || !strings.Contains(errs, in.Layers[0].Digest) || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d, output %q, error %q", code, out, errs)
	}
	var rep struct{ Problems []string }
	out, _, _ = lighter(t, "check", "--json", "oci:"+dir+"/x:1")
	if decode(t, out, &rep); len(rep.Problems) == 0 {
		t.Errorf("check --json gave %q", out)
	}
}

func TestVersion(t *testing.T) {
	var v versionInfo
	decode(t, must(t, "version", "--json"), &v)
	if v.Kernel == "" || !v.FUSE || len(v.Formats) == 0 {
		t.Errorf("version gave %+v", v)
	}
	if out := must(t, "version"); !strings.HasPrefix(out, "lighter ") {
		t.Errorf("version wrote %q", out)
	}
}
