// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("suffix = \"-file\"\njobs = 2\nplain-http = true\nplatform = [\"linux/arm64\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LIGHTER_SUFFIX", "-env")
	t.Setenv("LIGHTER_CONFIG", file)
	var shown []settingShown
	decode(t, must(t, "config", "print", "--json"), &shown)
	got := map[string]settingShown{}
	for _, s := range shown {
		got[s.Name] = s
	}
	for name, want := range map[string]settingShown{
		"suffix":     {"suffix", "-env", "LIGHTER_SUFFIX"},
		"jobs":       {"jobs", "2", file},
		"plain-http": {"plain-http", "true", file},
		"platform":   {"platform", "linux/arm64", file},
		"compressor": {"compressor", "zstd", "default"},
	} {
		if got[name] != want {
			t.Errorf("%s is %+v, not %+v", name, got[name], want)
		}
	}
	if out := must(t, "config", "print"); !strings.Contains(out, "LIGHTER_SUFFIX") {
		t.Errorf("config print shows %q", out)
	}
	dir := t.TempDir()
	t.Setenv("LIGHTER_PLATFORM", "linux/amd64")
	must(t, "copy", golden(t, "src"), "oci:"+dir+"/x:1")
	must(t, "convert", "oci:"+dir+"/x:1")
	must(t, "check", "oci:"+dir+"/x:1-env")
	must(t, "convert", "--suffix", "-flag", "oci:"+dir+"/x:1")
	must(t, "check", "oci:"+dir+"/x:1-flag")
	t.Setenv("LIGHTER_JOBS", "many")
	if _, errs, code := lighter(t, "convert", "oci:"+dir+"/x:1"); code != exitUsage || !strings.Contains(errs, "LIGHTER_JOBS") {
		t.Errorf("status %d: %s", code, errs)
	}
}

func TestBadSettings(t *testing.T) {
	for _, text := range []string{"sufix = \"x\"\n", "suffix = \n", "[suffix]\nx = 1\n"} {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, errs, code := lighter(t, "--config", file, "version"); code != exitUsage || !strings.Contains(errs, file) {
			t.Errorf("%q: status %d: %s", text, code, errs)
		}
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "4096": 4096, "0x100000": 1 << 20, "1MiB": 1 << 20, "64k": 64 << 10, "10GiB": 10 << 30, " 2M ": 2 << 20, "1b": 1} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%q is %d, %v, not %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "-1", "x", "1MM", "9223372036854775807G", "1 2", "1.5G"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q is %d", s, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1 kB", 999_999: "1 MB", 123_456_789: "123 MB", 1 << 62: "4.61e+03 PB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is shown as %q, not %q", n, got, want)
		}
	}
}
