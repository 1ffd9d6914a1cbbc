// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
)

// Error says which access to which blob failed. Err wraps fs.ErrNotExist or
// fs.ErrPermission where that is the cause, or the error of the context.
type Error struct {
	Op   string // "open" or "read"
	Repo string // host/repository
	Blob string // hex
	Off  int64  // bytes; of a read
	Err  error
}

func (e *Error) Error() string {
	if e.Op == "read" {
		return fmt.Sprintf("read blob sha256:%s at %d from %s: %v", e.Blob, e.Off, e.Repo, e.Err)
	}
	return fmt.Sprintf("%s blob sha256:%s in %s: %v", e.Op, e.Blob, e.Repo, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// verdict is what the retry loop does about an error.
type verdict int

const (
	transient verdict = iota // passes by itself: again until the context ends
	dubious                  // a wrong answer: again, but only a few times
	permanent                // again makes no sense
)

// answerError is an answer, or the lack of one, that is not what was asked for.
type answerError struct {
	text    string // redacted
	verdict verdict
	stalled bool
	err     error // may be nil
}

func (e *answerError) Error() string { return e.text }
func (e *answerError) Unwrap() error { return e.err }

func judge(err error) verdict {
	var a *answerError
	switch {
	case errors.As(err, &a):
		return a.verdict
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return permanent
	}
	return transient
}

// protocolError is an answer that breaks HTTP or contradicts itself.
func protocolError(host, format string, args ...any) error {
	return &answerError{text: host + " answered wrongly: " + fmt.Sprintf(format, args...), verdict: dubious}
}

// connectionError wraps what a RoundTripper or a body returned.
func connectionError(host string, err error) error {
	e := &answerError{text: host + ": " + redact(err.Error()), err: err}
	var cert *tls.CertificateVerificationError
	var own *answerError
	switch {
	case errors.As(err, &own):
		e.verdict = own.verdict
	case errors.As(err, &cert):
		e.verdict, e.err = permanent, errors.Join(fs.ErrPermission, err)
	case speaksHTTP(err):
		e.text = host + " speaks plain http, which is only used for loopback hosts and those named for it"
		e.verdict, e.err = permanent, errors.Join(fs.ErrPermission, err)
	}
	return e
}

var errStalled = errors.New("no data for too long")

func stalledError(host string) error {
	return &answerError{text: host + ": " + errStalled.Error(), stalled: true, err: errStalled}
}

// statusError turns an answer with an unwanted status into an error, and reads
// and closes its body. sent are the secrets of the request. ours says that the
// registry itself answered, and not a host that it redirected to, whose texts
// (they often quote the signature) are not repeated.
func statusError(resp *http.Response, ours bool, sent ...string) error {
	defer resp.Body.Close()
	host := resp.Request.URL.Host
	text := fmt.Sprintf("%s answered %d %s", host, resp.StatusCode, http.StatusText(resp.StatusCode))
	var body struct {
		Errors []struct{ Code, Message string }
	}
	code := ""
	if raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)); err == nil && ours {
		if json.Unmarshal(raw, &body) == nil && len(body.Errors) > 0 {
			code = body.Errors[0].Code
			text += ": " + redact(code+" "+body.Errors[0].Message, sent...)
		}
	}
	e := &answerError{text: text, verdict: permanent}
	switch s := resp.StatusCode; {
	case s == http.StatusNotFound || s == http.StatusGone:
		e.err = fs.ErrNotExist
		if code == "" && ours {
			e.verdict = dubious // a gateway whose registry is away says 404, too
		}
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		e.err = fs.ErrPermission
	case s == http.StatusRequestedRangeNotSatisfiable, s < 400:
		e.verdict = dubious
	case s == http.StatusRequestTimeout, s == http.StatusTooEarly, s == http.StatusTooManyRequests, s >= 500:
		e.verdict = transient
	}
	if !ours && e.verdict == permanent {
		e.verdict = dubious // the registry may send us elsewhere next time
	}
	return e
}

// giveUp is the error of a loop whose context ended: both causes are told. What
// the last try said does not count as sure any more.
func giveUp(ctx context.Context, last error) error {
	cause := ctx.Err()
	if cause == nil {
		cause = context.DeadlineExceeded
	}
	if last == nil || errors.Is(last, cause) {
		return cause
	}
	return fmt.Errorf("%w: %v", cause, last)
}
