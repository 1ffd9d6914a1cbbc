// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestParseChallenges(t *testing.T) {
	bearer := challenge{"bearer", map[string]string{"realm": "https://a/token", "service": "s, \"quoted\"", "scope": "repository:x:pull"}}
	basic := challenge{"basic", map[string]string{"realm": "r"}}
	for in, want := range map[string][]challenge{
		"": nil,
		`Bearer realm="https://a/token",service="s, \"quoted\"",scope="repository:x:pull"`:                {bearer},
		`bearer Realm="https://a/token" , SERVICE="s, \"quoted\"" ,scope="repository:x:pull" , `:          {bearer},
		`Basic realm=r, Bearer realm="https://a/token",service="s, \"quoted\"",scope="repository:x:pull"`: {basic, bearer},
		`Negotiate`:             {{"negotiate", map[string]string{}}},
		`Basic realm="unclosed`: {{"basic", map[string]string{}}},
		`="x"`:                  nil,
		`realm="x"`:             nil,
	} {
		if got := parseChallenges(in); !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\n got %v\nwant %v", in, got, want)
		}
	}
	h := http.Header{"Www-Authenticate": {`Basic realm="r"`, `Bearer service="without realm"`, `Bearer realm="x"`}}
	if c := findChallenge(h); c == nil || c.params["realm"] != "x" {
		t.Errorf("chose %v", c)
	}
}

func FuzzParseChallenges(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a",scope="b"`, `Basic realm=x, Bearer a="\"`, `,,= "`, "Negotiate YWJj=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges(s) {
			if c.scheme == "" || c.scheme != strings.ToLower(c.scheme) || c.params == nil {
				t.Fatalf("%q gave %v", s, c)
			}
		}
	})
}

func TestParseContentRange(t *testing.T) {
	for in, want := range map[string]contentRange{
		"bytes 0-9/100": {0, 9, 100}, "bytes 5-5/*": {5, 5, -1}, "bytes */100": {0, -1, 100}, "BYTES 1-2/3": {1, 2, 3}, "bytes */0": {0, -1, 0},
	} {
		if got, err := parseContentRange(in); err != nil || got != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", "bytes", "bytes 0-9", "0-9/100", "bytes 9-0/100", "bytes 0-100/100", "bytes -1-5/10", "bytes */*", "items 0-9/100",
		"bytes 0-9223372036854775808/*", "bytes 0-+5/9", "bytes 0x0-5/9", "bytes 0-9/ 100", "bytes 0-9/-1",
	} {
		if got, err := parseContentRange(in); err == nil {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/100", "bytes */1", "bytes 1-1/*", "bytes 18446744073709551616-1/-5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseContentRange(s)
		if err == nil && (r.first < 0 || r.last < -1 || r.total < -1 || r.total >= 0 && r.last >= r.total) {
			t.Fatalf("%q gave %v", s, r)
		}
	})
}

func TestRedact(t *testing.T) {
	secret := "hunter2hunter2"
	for _, in := range []string{
		"get https://user:hunter2hunter2@host/path failed",
		"see https://cdn/x?Signature=hunter2hunter2&Expires=1 now",
		"Authorization: Bearer hunter2hunter2",
		"got header basic hunter2hunter2==",
		"malformed \"/data/abc?sig=hunter2hunter2\"",
		"token eyJhbGciOiJIUzI1NiJ9.hunter2hunter2.abc",
		"X-Amz-Signature=hunter2hunter2",
		"the password is hunter2hunter2",
	} {
		if got := redact(in, secret); strings.Contains(got, secret) {
			t.Errorf("%q became %q", in, got)
		}
	}
	if got := redact("plain: connection refused (10.0.0.1:443)"); got != "plain: connection refused (10.0.0.1:443)" {
		t.Errorf("changed harmless text: %q", got)
	}
	if got := redact(strings.Repeat("x\x00\n", 1000)); len(got) > maxForeignText+8 || strings.ContainsAny(got, "\x00\n") {
		t.Errorf("not cut or cleaned: %q", got)
	}
}
