// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func env(vars map[string]string) func(string) string { return func(n string) string { return vars[n] } }

func TestReadSettings(t *testing.T) {
	s, err := readSettings(env(nil))
	if err != nil || s.readTimeout != time.Minute || s.cacheLimit != 0 || s.logLevel != slog.LevelInfo {
		t.Errorf("defaults: %+v, %v", s, err)
	}
	s, err = readSettings(env(map[string]string{
		"LIGHTER_READ_TIMEOUT": "5s", "LIGHTER_CACHE_LIMIT": "20GiB", "LIGHTER_PLAIN_HTTP": "a.example, b.example:5000", "LIGHTER_LOG_LEVEL": "debug",
	}))
	if err != nil || s.readTimeout != 5*time.Second || s.cacheLimit != 20<<30 || s.logLevel != slog.LevelDebug {
		t.Errorf("all set: %+v, %v", s, err)
	}
	for registry, want := range map[string]bool{
		"a.example": true, "a.example:80": true, "b.example:5000": true, "b.example:5001": false, "b.example": false,
		"127.0.0.1:5000": true, "127.8.8.8": true, "localhost:1": true, "[::1]:5000": true, "c.example": false, "128.0.0.1:5000": false,
	} {
		if got := s.usesPlainHTTP(registry); got != want {
			t.Errorf("plain http to %s: %v, want %v", registry, got, want)
		}
	}
}

func TestReadSettingsNamesAllThatIsWrong(t *testing.T) {
	wrong := map[string]string{
		"LIGHTER_READ_TIMEOUT": "soon", "LIGHTER_CACHE_LIMIT": "9999999T", "LIGHTER_PLAIN_HTTP": "http://a.example/", "LIGHTER_LOG_LEVEL": "loud",
	}
	_, err := readSettings(env(wrong))
	for name := range wrong {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in: %v", name, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "17": 17, "1k": 1 << 10, "3M": 3 << 20, "2GiB": 2 << 30, "1TB": 1 << 40, "-1": -1, "": -1, "G": -1, "1KK": -1, "1.5G": -1, "9223372036854775807G": -1} {
		got, err := parseSize(in)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("parseSize(%q) = %d, %v", in, got, err)
		}
	}
}

// The manifest's defaults are valid settings, and each variable that it offers is one that is read.
func TestManifestMatchesSettings(t *testing.T) {
	b, err := os.ReadFile("../config.json")
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		PropagatedMount string
		Interface       struct{ Socket string }
		Mounts          []struct{ Name, Destination string }
		Env             []struct{ Name, Value string }
	}
	if err := json.Unmarshal(b, &manifest); err != nil {
		t.Fatal(err)
	}
	vars, asked := map[string]string{}, map[string]bool{}
	for _, e := range manifest.Env {
		vars[e.Name] = e.Value
	}
	s, err := readSettings(func(n string) string { asked[n] = true; return vars[n] })
	if err != nil || s.readTimeout != time.Minute {
		t.Errorf("the manifest's values: %+v, %v", s, err)
	}
	for name := range vars {
		if !asked[name] {
			t.Errorf("%s is in the manifest but never read", name)
		}
	}
	for name := range asked {
		if _, ok := vars[name]; !ok {
			t.Errorf("%s is read but not in the manifest", name)
		}
	}
	if manifest.PropagatedMount != stateDir || "/run/docker/plugins/"+manifest.Interface.Socket != pluginSocket {
		t.Errorf("manifest says %s and %s", manifest.PropagatedMount, manifest.Interface.Socket)
	}
	for _, m := range manifest.Mounts {
		if m.Destination != dockerImageDir && m.Destination != dockerConfigFile && m.Destination != dockerEtcDir {
			t.Errorf("nothing reads the mount at %s", m.Destination)
		}
	}
}
