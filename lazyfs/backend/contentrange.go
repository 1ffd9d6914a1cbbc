// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// contentRange is a Content-Range in bytes; first and last are 0 and -1 in the
// form of a range that cannot be satisfied, and total is -1 if it is unknown.
type contentRange struct{ first, last, total int64 }

var errContentRange = errors.New("no valid Content-Range")

// parseContentRange reads "bytes 0-9/100", "bytes 0-9/*" and "bytes */100" (RFC 9110).
func parseContentRange(s string) (contentRange, error) {
	unit, s, _ := strings.Cut(s, " ")
	span, size, ok := strings.Cut(s, "/")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, errContentRange
	}
	r := contentRange{0, -1, -1}
	var err error
	if size != "*" {
		if r.total, err = parseOffset(size); err != nil {
			return contentRange{}, err
		}
	}
	if span == "*" {
		if r.total < 0 {
			return contentRange{}, errContentRange
		}
		return r, nil
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return contentRange{}, errContentRange
	}
	if r.first, err = parseOffset(first); err != nil {
		return contentRange{}, err
	}
	if r.last, err = parseOffset(last); err != nil {
		return contentRange{}, err
	}
	if r.first > r.last || r.total >= 0 && r.last >= r.total {
		return contentRange{}, errContentRange
	}
	return r, nil
}

func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, errContentRange
	}
	return int64(n), nil
}

func plainEncoding(resp *http.Response) bool {
	e := resp.Header.Get("Content-Encoding")
	return (e == "" || strings.EqualFold(e, "identity")) && !resp.Uncompressed
}

func encodingError(resp *http.Response) error {
	return protocolError(resp.Request.URL.Host, "a body in the encoding %q, which was not asked for",
		redact(resp.Header.Get("Content-Encoding")))
}
