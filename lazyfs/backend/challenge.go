// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"net/http"
	"strings"
)

// challenge is what a registry asks for (RFC 9110, WWW-Authenticate).
type challenge struct {
	scheme string            // lower case
	params map[string]string // keys in lower case
}

// findChallenge returns the challenge of h that is best for us: bearer, else
// basic, else nil.
func findChallenge(h http.Header) *challenge {
	var basic *challenge
	for _, line := range h.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(line) {
			switch {
			case c.scheme == "bearer" && c.params["realm"] != "":
				return &c
			case c.scheme == "basic" && basic == nil:
				basic = &c
			}
		}
	}
	return basic
}

// parseChallenges reads one header line, which may hold several challenges. What
// it does not understand, it leaves out.
func parseChallenges(s string) []challenge {
	var all []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := cutToken(s)
		if word == "" {
			return all
		}
		rest = strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(rest, "=") {
			all = append(all, challenge{strings.ToLower(word), map[string]string{}})
			s = rest
			continue
		}
		value, after, ok := cutValue(strings.TrimLeft(rest[1:], " \t"))
		if !ok {
			return all
		}
		if len(all) > 0 {
			all[len(all)-1].params[strings.ToLower(word)] = value
		}
		s = after
	}
}

func cutToken(s string) (token, rest string) {
	i := strings.IndexAny(s, " \t,=\"")
	if i < 0 {
		i = len(s)
	}
	return s[:i], s[i:]
}

func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, " \t,")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:], true
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
