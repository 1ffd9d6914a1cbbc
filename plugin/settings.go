// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// Where things are inside the plugin. stateDir is the propagated mount: what
// lies below it is seen by the host and outlives restarts and upgrades.
const (
	stateDir      = "/var/lib/lighter"
	dataDir       = stateDir + "/data"
	cacheDir      = dataDir + "/cache"
	controlSocket = stateDir + "/run/control.sock"
	pluginSocket  = "/run/docker/plugins/lighter.sock"

	dockerImageDir   = "/run/lighter/docker-image"
	dockerConfigFile = "/run/lighter/docker-config.json"
	dockerEtcDir     = "/run/lighter/docker-etc"
)

// settings are what `docker plugin set` can change; docs/plugin.md explains them.
type settings struct {
	readTimeout  time.Duration
	cacheLimit   int64           // bytes, 0: none
	plainHTTP    map[string]bool // hosts, with port where one was given
	dockerConfig string          // content of a config.json, plain or base64
	logLevel     slog.Level
}

// readSettings takes the settings from environment variables. An empty variable
// means the default; all that is wrong is told at once, each by its name.
func readSettings(getenv func(string) string) (settings, error) {
	s := settings{readTimeout: time.Minute, plainHTTP: map[string]bool{}, dockerConfig: getenv("LIGHTER_DOCKER_CONFIG")}
	var errs []error
	bad := func(name string, err error) { errs = append(errs, fmt.Errorf("%s=%q: %w", name, getenv(name), err)) }
	if v := getenv("LIGHTER_READ_TIMEOUT"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			bad("LIGHTER_READ_TIMEOUT", errors.New("want a duration such as 60s"))
		} else if d < time.Second || d > time.Hour {
			bad("LIGHTER_READ_TIMEOUT", errors.New("want 1s to 1h"))
		}
		s.readTimeout = d
	}
	if v := getenv("LIGHTER_CACHE_LIMIT"); v != "" {
		n, err := parseSize(v)
		if err != nil {
			bad("LIGHTER_CACHE_LIMIT", err)
		}
		s.cacheLimit = n
	}
	for host := range strings.SplitSeq(getenv("LIGHTER_PLAIN_HTTP"), ",") {
		host = strings.TrimSpace(host)
		if strings.ContainsAny(host, "/ @") {
			bad("LIGHTER_PLAIN_HTTP", fmt.Errorf("%q is not a host", host))
		} else if host != "" {
			s.plainHTTP[host] = true
		}
	}
	if v := getenv("LIGHTER_LOG_LEVEL"); v != "" {
		if err := s.logLevel.UnmarshalText([]byte(v)); err != nil {
			bad("LIGHTER_LOG_LEVEL", errors.New("want debug, info, warn or error"))
		}
	}
	return s, errors.Join(errs...)
}

// usesPlainHTTP says whether a registry, "host" or "host:port", is spoken to
// without TLS: when it was named, with this port or without any, or is loopback.
func (s settings) usesPlainHTTP(registry string) bool {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	if s.plainHTTP[registry] || s.plainHTTP[host] || host == "localhost" {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// parseSize reads a number of bytes with an optional suffix k, M, G or T (powers of 1024).
func parseSize(v string) (int64, error) {
	digits := strings.TrimRight(strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(v), "B"), "I"), "KMGT")
	suffix := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(v)[len(digits):], "B"), "I")
	shift, ok := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[suffix]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n > 1<<62>>shift {
		return 0, errors.New("want bytes, or a number with k, M, G or T")
	}
	return n << shift, nil
}
