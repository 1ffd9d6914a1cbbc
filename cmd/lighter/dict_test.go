// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConvertFormats converts with every option that decides the format, and
// compares the result with the source, byte for byte.
func TestConvertFormats(t *testing.T) {
	for _, flags := range []string{
		"--compressor gzip", "--batch-size 1MiB", "--batch-size 4KiB --chunk-size 4KiB", "--fs-version 5", "--fs-version 5 --compressor gzip",
		"--fs-version 5 --compressor none --digester sha256 --chunk-size 16MiB", "--fs-version 5 --compressor lz4_block",
	} {
		t.Run(flags, func(t *testing.T) {
			name := "oci:" + t.TempDir() + "/x:1"
			must(t, append(append([]string{"convert"}, strings.Fields(flags)...), golden(t, "src"), name)...)
			must(t, "check", "--against", golden(t, "src"), name)
			var in inspected
			decode(t, must(t, "inspect", "--json", name), &in)
			want := 6
			if strings.Contains(flags, "version 5") {
				want = 5
			}
			if in.FS == nil || in.FS.Version != want {
				t.Errorf("inspect: %+v", in)
			}
		})
	}
	for _, flags := range []string{"--fs-version 4", "--fs-version 5 --batch-size 1MiB", "--batch-size 3", "--batch-size 2MiB", "--compressor brotli"} {
		if _, errs, code := lighter(t, append(append([]string{"convert"}, strings.Fields(flags)...), golden(t, "src"), "oci:"+t.TempDir()+"/x:1")...); code != exitUsage {
			t.Errorf("%s: exit status %d, %s", flags, code, errs)
		}
	}
}

// TestConvertWithDictionary converts an image with itself as dictionary, named
// as image and by its chunks in a file: nothing is stored again.
func TestConvertWithDictionary(t *testing.T) {
	for _, version := range []string{"5", "6"} {
		t.Run("v"+version, func(t *testing.T) {
			dir := t.TempDir()
			base, dict := "oci:"+dir+"/base:1", filepath.Join(dir, "base.dict")
			convert := func(args ...string) {
				t.Helper()
				must(t, append([]string{"convert", "--fs-version", version}, args...)...)
			}
			convert(golden(t, "src"), base)
			if out := must(t, "dict", base, "--output", dict); !strings.Contains(out, "chunks of") {
				t.Errorf("dict wrote %q", out)
			}
			if st, err := os.Stat(dict); err != nil || st.Mode().Perm() != 0o644 {
				t.Errorf("%v, %v", st, err)
			}
			must(t, "check", "--bootstrap", dict)
			for name, c := range map[string][2]string{
				"image":     {base, "oci:" + dir + "/other:1"},
				"bootstrap": {dict, "oci:" + dir + "/base:2"}, // where the blobs are
			} {
				convert("--chunk-dict", c[0], golden(t, "src"), c[1])
				must(t, "check", "--against", golden(t, "src"), c[1])
				var in inspected
				decode(t, must(t, "inspect", "--json", c[1]), &in)
				data := 0
				for _, l := range in.Layers[:len(in.Layers)-1] {
					if l.Size > 100_000 {
						data++
					}
				}
				if len(in.Layers) <= 4 || data != len(in.Layers)-4 {
					t.Errorf("%s: %d layers, %d with data", name, len(in.Layers), data)
				}
			}
			// Where the blobs are not, and nobody says where they are.
			if _, errs, code := lighter(t, "convert", "--fs-version", version, "--chunk-dict", dict, golden(t, "src"), "oci:"+dir+"/third:1"); code != exitFailed || !strings.Contains(errs, "hint") {
				t.Errorf("without blobs: %d, %s", code, errs)
			}
		})
	}
	dir := t.TempDir()
	must(t, "convert", golden(t, "src"), "oci:"+dir+"/base:1")
	if _, errs, code := lighter(t, "convert", "--fs-version", "5", "--chunk-dict", "oci:"+dir+"/base:1", golden(t, "src"), "oci:"+dir+"/x:1"); code != exitFailed || !strings.Contains(errs, "RAFS v6") {
		t.Errorf("dictionary of another version: %d, %s", code, errs)
	}
}
