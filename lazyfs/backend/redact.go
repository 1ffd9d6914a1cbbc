// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"regexp"
	"strings"
	"unicode"
)

// maxForeignText bounds how much text of a server goes into an error, in bytes.
const maxForeignText = 200

var secrets = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`//[^/\s@"']*@`), "//…@"},
	{regexp.MustCompile(`(?i)\b(bearer|basic|authorization:?)\s+[A-Za-z0-9+/=_.~:-]{6,}`), "$1 …"},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_=.-]{8,}`), "…"},
	{regexp.MustCompile(`\?[A-Za-z0-9._~%-]+=[^\s"']*`), "?…"},
	{regexp.MustCompile(`(?i)\b(token|password|secret|signature|credential|x-amz-[a-z-]+)=[^\s&"']+`), "$1=…"},
}

// redact makes text that came from outside fit for an error or a log: secrets
// that it might quote are taken out, control characters too, and it is cut.
func redact(text string, known ...string) string {
	if len(text) > 16*maxForeignText {
		text = text[:16*maxForeignText]
	}
	for _, k := range known {
		if len(k) >= 4 {
			text = strings.ReplaceAll(text, k, "…")
		}
	}
	for _, s := range secrets {
		text = s.re.ReplaceAllString(text, s.with)
	}
	text = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if len(text) > maxForeignText {
		text = strings.ToValidUTF8(text[:maxForeignText], "") + "…"
	}
	return strings.TrimSpace(text)
}
