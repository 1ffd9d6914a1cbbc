// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lighter/format/formattest"
)

// asCommand makes the test binary be the command: mounts are served by another
// process than the one that reads them, and signals need a process to go to.
const asCommand = "LIGHTER_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	for _, kv := range os.Environ() { // settings of this machine are none of the tests'
		if k, _, _ := strings.Cut(kv, "="); strings.HasPrefix(k, "LIGHTER_") && k != "LIGHTER_GOLDEN" {
			os.Unsetenv(k)
		}
	}
	dir, err := os.MkdirTemp("", "lighter-config-")
	if err == nil {
		err = os.Setenv("XDG_CONFIG_HOME", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func golden(t testing.TB, tag string) string {
	return "oci:" + filepath.Join(formattest.Golden(t), "oci") + ":" + tag
}

// lighter runs the command in this process.
func lighter(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// must runs the command and fails the test unless it is done.
func must(t testing.TB, args ...string) string {
	t.Helper()
	out, errs, code := lighter(t, args...)
	if code != exitDone {
		t.Fatalf("lighter %s: status %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{}, {"nonsense"}, {"--nonsense"}, {"--config", "/nowhere", "version"},
		{"convert"}, {"convert", "a", "b", "c"}, {"convert", "--nonsense", "a", "b"}, {"convert", "A B", "b"}, {"convert", "oci:x:1", "oci:"},
		{"convert", "--oci-ref", "--keep-tar", "a", "b"}, {"convert", "--oci-ref", "--fs-version", "5", "a", "b"}, {"convert", "--compressor", "lzma", "a", "b"}, {"convert", "--digester", "md5", "a", "b"},
		{"convert", "--chunk-size", "3000", "a", "b"}, {"convert", "--chunk-size", "x", "a", "b"}, {"convert", "--chunk-size", "1TiB", "a", "b"},
		{"convert", "--index", "both", "a", "b"}, {"convert", "--platform", "linux", "a", "b"}, {"convert", "--jobs", "-1", "a", "b"},
		{"convert", "--platform", "linux/amd64", "--all-platforms", "a", "b"}, {"convert", "--progress", "loud", "a", "b"},
		{"convert", "oci:x:1", "oci:x:1"}, {"convert", "docker-archive:x.tar"}, {"convert", "oci:x:1", "docker-archive:x.tar"}, {"convert", "oci:x:1", "oci:y@sha256:" + strings.Repeat("0", 64)},
		{"check"}, {"check", "a", "b"}, {"check", "--blobs", "d", "a"}, {"check", "--bootstrap", "f", "a"}, {"check", "--platform", "x", "a"},
		{"inspect"}, {"inspect", "a", "b"}, {"inspect", "--platform", "x", "a"},
		{"ls"}, {"ls", "a", "b", "c"}, {"cat", "a"}, {"cat"}, {"ls", "-Z", "a"},
		{"mount"}, {"mount", "a"}, {"mount", "a", "b", "c"}, {"mount", "--bootstrap", "f", "a", "b"}, {"mount", "--blobs", "d", "a", "b"},
		{"copy"}, {"copy", "a"}, {"copy", "a", "docker-archive:b"}, {"copy", "--progress", "loud", "a", "b"}, {"copy", "A B", "c"},
		{"status", "x"}, {"status", "--host", "tcp://x"}, {"ps", "x"}, {"ps", "--host", "unix://"}, {"cache"}, {"cache", "nonsense"},
		{"cache", "du", "x"}, {"cache", "prune", "--keep", "much"}, {"config"}, {"config", "print", "x"}, {"version", "x"},
	} {
		out, errs, code := lighter(t, args...)
		if code != exitUsage {
			t.Errorf("lighter %q: status %d, not %d: %s", args, code, exitUsage, errs)
		}
		if strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "lighter: ") {
			t.Errorf("lighter %q: error is not one line: %q", args, errs)
		}
		if out != "" {
			t.Errorf("lighter %q: wrote %q", args, out)
		}
	}
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("no image"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"convert", "oci:" + dir + "/none:x", "oci:" + dir + "/y:x"}, {"convert", golden(t, "nothing"), "oci:" + dir + "/y:x"},
		{"convert", golden(t, "src"), "oci:" + dir + ":x"}, {"convert", "--prefetch", dir + "/none", golden(t, "src"), "oci:" + dir + "/y:x"},
		{"convert", "oci-archive:" + file, "oci:" + dir + "/y:x"}, {"convert", "docker-archive:" + file, "oci:" + dir + "/y:x"},
		{"check", golden(t, "nothing")}, {"check", "--bootstrap", file}, {"check", "oci:" + dir}, {"check", "127.0.0.1:1/x:1"},
		{"inspect", golden(t, "nothing")}, {"ls", golden(t, "src")}, {"ls", golden(t, "v6-zstd"), "/nothing"},
		{"cat", golden(t, "v6-zstd"), "/bin"}, {"cat", golden(t, "v6-zstd"), "/nothing"}, {"cat", golden(t, "src"), "/x"},
		{"mount", golden(t, "v6-zstd"), dir + "/none"}, {"mount", golden(t, "v6-zstd"), file}, {"copy", golden(t, "nothing"), "oci:" + dir + "/z:1"},
		{"status", "--host", "unix://" + dir + "/none"}, {"ps", "--host", "unix://" + file},
	} {
		_, errs, code := lighter(t, args...)
		if code != exitFailed {
			t.Errorf("lighter %q: status %d, not %d: %s", args, code, exitFailed, errs)
		}
		if strings.Count(errs, "\n") != 1 {
			t.Errorf("lighter %q: error is not one line: %q", args, errs)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("failed commands left %v, %v", left, err)
	}
}

func TestHelp(t *testing.T) {
	for _, verb := range newRoot().Commands() {
		if verb.Name() == "help" || verb.Hidden {
			continue
		}
		if verb.Example == "" {
			t.Errorf("%s has no example", verb.Name())
		}
		if out := must(t, verb.Name(), "--help"); !strings.Contains(out, "Examples:") {
			t.Errorf("%s --help shows no example", verb.Name())
		}
	}
}
