// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lighter/lazyfs/backend"
	. "lighter/lazyfs/backend/backendtest"
)

func TestConfigOpens(t *testing.T) {
	t.Parallel()
	content := Random(1000, 70)
	plain := NewRegistry(t, Config{}, content)
	basic := NewRegistry(t, Config{User: "user", Password: "pass"}, content)
	token := NewRegistry(t, Config{TokenTTL: time.Hour}, content)
	Open(t, Context(t, time.Minute), client(t, backend.RegistryOptions{}).Repository(token.Name()), content)
	seen := token.Seen("HEAD", "/blobs/")
	bearer := strings.TrimPrefix(seen[len(seen)-1].Header.Get("Authorization"), "Bearer ")
	dir := fill(t, "", content)
	for name, raw := range map[string]string{
		"v2 registry":    fmt.Sprintf(`{"version":2,"backend":{"type":"registry","registry":{"host":%q,"repo":%q,"timeout":5,"retry_limit":2}},"cache":{"type":"blobcache"}}`, plain.Host, Repo),
		"old registry":   fmt.Sprintf(`{"device":{"backend":{"type":"registry","config":{"scheme":"http","host":%q,"repo":%q,"auth":"dXNlcjpwYXNz"}}},"mode":"direct"}`, basic.Host, Repo),
		"registry token": fmt.Sprintf(`{"device":{"backend":{"type":"registry","config":{"host":%q,"repo":%q,"registry_token":%q}}}}`, token.Host, Repo, bearer),
		"v2 dir":         fmt.Sprintf(`{"version":2,"backend":{"type":"localfs","localfs":{"dir":%q}}}`, dir),
		"alt_dirs":       fmt.Sprintf(`{"backend":{"type":"localfs","localfs":{"dir":"/nonexistent","alt_dirs":["/dev/null",%q]}}}`, dir),
		"blob_file":      fmt.Sprintf(`{"device":{"backend":{"type":"localfs","config":{"blob_file":%q}}}}`, filepath.Join(dir, ID(content))),
	} {
		c, err := backend.ParseConfig([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ctx := Context(t, time.Minute)
		Read(t, ctx, Open(t, ctx, c.Opener(backend.RegistryOptions{Keychain: keychain{}}), content), content, 3, 500)
	}
	if n := len(token.Seen("", "/token")); n != 1 {
		t.Errorf("%d token requests: the token given was not used", n)
	}
	// Naming https forbids plain http even on the loopback.
	c, err := backend.ParseConfig(fmt.Appendf(nil, `{"backend":{"type":"registry","registry":{"scheme":"https","host":%q,"repo":%q}}}`, plain.Host, Repo))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Opener(backend.RegistryOptions{Keychain: keychain{}}).Open(Context(t, time.Minute), ID(content)); err == nil || !strings.Contains(err.Error(), "speaks plain http") {
		t.Errorf("https named: %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	t.Parallel()
	registry := func(more string) string {
		return `{"backend":{"type":"registry","registry":{"host":"h","repo":"r"` + more + `}}}`
	}
	for raw, want := range map[string]string{
		"":                                    "not valid JSON",
		`{"version":2,"id":"s3cret`:           "not valid JSON",
		`{}`:                                  "no backend",
		`{"backend":{"type":"oss","oss":{}}}`: `"oss" is not supported`,
		`{"backend":{"type":"registry"}}`:     "no valid settings",
		`{"backend":{"type":"registry","registry":{"host":"h"}}}`:               "host and repo",
		`{"backend":{"type":"registry","registry":{"host":5,"auth":"s3cret"}}}`: "no valid settings",
		registry(`,"skip_verify":true`):                                         "skip_verify",
		registry(`,"ca_cert_files":["/ca.pem"]`):                                "ca_cert_files",
		registry(`,"proxy":{"url":"http://u:s3cret@p"}`):                        "proxy",
		registry(`,"blob_redirected_host":"x"`):                                 "blob_redirected_host",
		registry(`,"scheme":"ftp"`):                                             "scheme",
		registry(`,"auth":"s3cret"`):                                            "auth",
		`{"backend":{"type":"localfs","localfs":{}}}`:                           "blob_file or dir",
		strings.Repeat(" ", 1<<20) + "{}":                                       "1 MiB",
	} {
		_, err := backend.ParseConfig([]byte(raw))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%.80s: %v", raw, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		`{"backend":{"type":"registry","registry":{"host":"h","repo":"r","auth":"dXNlcjpwYXNz","scheme":"http"}}}`,
		`{"device":{"backend":{"type":"localfs","config":{"dir":"/b","alt_dirs":[""]}}}}`, `{"backend":{"type":"localfs"}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := backend.ParseConfig([]byte(s))
		if err == nil && ((c.Registry == nil) == (c.LocalFS == nil) || c.Opener(backend.RegistryOptions{}) == nil) {
			t.Fatalf("%q gave %+v", s, c)
		}
	})
}
