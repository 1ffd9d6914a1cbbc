// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"lighter/lazyfs/backend"
)

func lookup(t *testing.T, k authn.Keychain, repo string) (*authn.AuthConfig, error) {
	t.Helper()
	r, err := name.NewRepository(repo)
	if err != nil {
		t.Fatal(err)
	}
	a, err := k.Resolve(r)
	if err != nil {
		return nil, err
	}
	return a.Authorization()
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

const config = `{"auths":{
 "reg.example":{"auth":"dXNlcjpwYXNz"},
 "reg.example/deep/repo":{"username":"deep","password":"pw"},
 "https://old.example/v1/":{"auth":"b2xkOnBhc3M="},
 "https://index.docker.io/v1/":{"auth":"aHViOnBhc3M="},
 "token.example":{"identitytoken":"idtoken"},
 "bearer.example":{"registrytoken":"regtoken"},
 "empty.example":{}}}`

func TestContentKeychain(t *testing.T) {
	for _, content := range []string{config, b64(config), "\n" + b64(config) + "\n"} {
		k, err := backend.NewContentKeychain(content)
		if err != nil {
			t.Fatal(err)
		}
		for repo, want := range map[string]authn.AuthConfig{
			"reg.example/a":               {Username: "user", Password: "pass"},
			"reg.example/deep/repo":       {Username: "deep", Password: "pw"},
			"reg.example/deep/repo/below": {Username: "deep", Password: "pw"},
			"reg.example/deep/repository": {Username: "user", Password: "pass"},
			"old.example/x":               {Username: "old", Password: "pass"},
			"debian":                      {Username: "hub", Password: "pass"},
			"docker.io/me/x":              {Username: "hub", Password: "pass"},
			"token.example/x":             {IdentityToken: "idtoken"},
			"bearer.example/x":            {RegistryToken: "regtoken"},
			"empty.example/x":             {},
			"evil-reg.example/x":          {},
			"example/x":                   {Username: "hub", Password: "pass"},
			"reg.example:5000/x":          {},
		} {
			got, err := lookup(t, k, repo)
			if err != nil {
				t.Fatal(err)
			}
			got.Auth = ""
			if *got != want {
				t.Errorf("%s: %+v, want %+v", repo, *got, want)
			}
		}
	}
	if _, err := backend.NewContentKeychain(""); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"{", "***", b64("no json: s3cret"), `{"auths":{"x":{"auth":"s3cret*"}}}`} {
		if _, err := backend.NewContentKeychain(bad); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestKeychainFile: absent and empty files have nothing, changed ones are read
// again, and what they lack comes from the next file or Docker's own place.
func TestKeychainFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", filepath.Join(dir, "home"))
	t.Setenv("DOCKER_CONFIG", dir)
	path, second := filepath.Join(dir, "absent.json"), filepath.Join(dir, "second.json")
	k := backend.NewKeychain("", path, "/dev/null", second)
	expect := func(want string) {
		t.Helper()
		got, err := lookup(t, k, "reg.example/a")
		if err != nil || got.Username != want {
			t.Fatalf("%+v, %v, want %q", got, err, want)
		}
	}
	write := func(path, user string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(`{"auths":{"reg.example":{"auth":"`+b64(user+":p")+`"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect("")
	write(filepath.Join(dir, "config.json"), "default")
	expect("default")
	write(second, "second")
	expect("second")
	write(path, "first")
	expect("first")
	write(path, "other")
	expect("other")
	if err := os.WriteFile(path, []byte(`{"auths":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := lookup(t, k, "reg.example/a"); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("broken file: %v", err)
	}
}

func TestCredentialHelper(t *testing.T) {
	dir := t.TempDir()
	script := `#!/bin/sh
read server
case "$1 $server" in
"get reg.example") echo '{"ServerURL":"x","Username":"helped","Secret":"pw"}';;
"get https://index.docker.io/v1/") echo '{"Username":"<token>","Secret":"idt"}';;
"get broken.example") echo "s3cret"; echo "s3cret" >&2; exit 3;;
"get garbage.example") echo "s3cret";;
*) echo "credentials not found in native keychain"; exit 1;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	k, err := backend.NewContentKeychain(`{"credsStore":"test","auths":{"file.example":{"auth":"` + b64("file:p") + `"},"reg.example":{}},
		"credHelpers":{"bad.example":"../../bin/sh","gone.example":"not-installed","file2.example":"test"}}`)
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]authn.AuthConfig{
		"reg.example/a": {Username: "helped", Password: "pw"}, "debian": {IdentityToken: "idt"},
		"unknown.example/x": {}, "file.example/x": {Username: "file", Password: "p"}, "file2.example/x": {},
	} {
		got, err := lookup(t, k, repo)
		if err != nil {
			t.Errorf("%s: %v", repo, err)
			continue
		}
		got.Auth = ""
		if *got != want {
			t.Errorf("%s: %+v, want %+v", repo, *got, want)
		}
	}
	for _, repo := range []string{"bad.example/x", "gone.example/x", "broken.example/x", "garbage.example/x"} {
		if got, err := lookup(t, k, repo); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %+v, %v", repo, got, err)
		}
	}
}
