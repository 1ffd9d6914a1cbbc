// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	maxTokenAnswer = 1 << 20 // bytes
	clientID       = "lighter"
	// The token specification's lifetime of a token whose answer names none.
	defaultTokenLife = time.Minute
	longestTokenLife = 24 * time.Hour
)

// obtain gets a credential for what the registry asked for.
func (s *authSource) obtain(ctx context.Context, asked *challenge, origin string) (*credential, error) {
	cfg, lookupErr := s.lookup(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cred := &credential{secrets: []string{basicHeader(cfg)[len("Basic "):], cfg.Password, cfg.IdentityToken, cfg.RegistryToken}}
	var err error
	switch {
	case cfg.RegistryToken != "":
		cred.header = "Bearer " + cfg.RegistryToken
	case asked.scheme == "basic":
		if cfg.Username == "" && cfg.Password == "" {
			err = denied(s.repo.RegistryStr(), "asks for a user and password, and none are known")
		}
		cred.header = basicHeader(cfg)
	default:
		err = s.token(ctx, cred, cfg, asked, origin)
	}
	if err == nil && !validHeader(cred.header) {
		err = denied(s.repo.RegistryStr(), "the credentials hold characters that no header may have")
	}
	if err != nil {
		if lookupErr != nil && judge(err) == permanent {
			err = fmt.Errorf("%w (looking up credentials: %s)", err, redact(lookupErr.Error()))
		}
		return nil, err
	}
	cred.born = time.Now()
	if !cred.expires.IsZero() && cred.expires.Before(cred.born) {
		cred.expires = cred.born
	}
	return cred, nil
}

// token asks the token server: with OAuth2 if there is a refresh token, which
// not all servers know, else with the plain request that all know.
func (s *authSource) token(ctx context.Context, cred *credential, cfg authn.AuthConfig, asked *challenge, origin string) error {
	realm, err := s.reg.checkRealm(asked.params["realm"], origin)
	if err != nil {
		return err
	}
	service, scope := asked.params["service"], asked.params["scope"]
	if scope == "" {
		scope = s.scope
	}
	s.reg.stats.tokens.Add(1)
	if cfg.IdentityToken != "" {
		form := url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {cfg.IdentityToken},
			"service": {service}, "scope": {scope}, "client_id": {clientID},
		}
		err = s.tokenRequest(ctx, cred, http.MethodPost, realm, form, "")
		var a *answerError
		if !errors.As(err, &a) || !errors.Is(err, fs.ErrNotExist) || cfg.Password == "" {
			return tokenVerdict(err)
		}
	}
	query := realm.Query()
	if service != "" {
		query.Set("service", service)
	}
	query["scope"] = strings.Fields(scope)
	withQuery := *realm
	withQuery.RawQuery = query.Encode()
	basic := ""
	if cfg.Username != "" || cfg.Password != "" {
		basic = basicHeader(cfg)
	}
	return tokenVerdict(s.tokenRequest(ctx, cred, http.MethodGet, &withQuery, nil, basic))
}

// tokenRequest does one request and fills cred with the answer. Redirects to
// another host are not followed: the request may carry a password.
func (s *authSource) tokenRequest(ctx context.Context, cred *credential, method string, u *url.URL, form url.Values, auth string) error {
	for hop := 0; ; hop++ {
		header := http.Header{}
		if auth != "" {
			header.Set("Authorization", auth)
		}
		if form != nil {
			header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		sent := time.Now()
		resp, err := s.reg.roundTrip(ctx, request{method: method, url: u, header: header, body: form.Encode()})
		if err != nil {
			return err
		}
		switch {
		case resp.StatusCode == http.StatusOK:
			return readToken(resp, cred, sent)
		case isRedirect(resp) && method == http.MethodGet:
			resp.Body.Close()
			next, err := s.reg.follow(resp, hop)
			if err != nil {
				return err
			}
			if next.Scheme != u.Scheme || next.Host != u.Host {
				return denied(u.Host, "the token server redirects to another host, %s", next.Host)
			}
			u = next
		default:
			return statusError(resp, true, cred.secrets...)
		}
	}
}

// tokenVerdict reads the refusal of a token server as a denial.
func tokenVerdict(err error) error {
	var a *answerError
	if errors.As(err, &a) && a.verdict == permanent && a.err == nil {
		return &answerError{text: "no token: " + a.text, verdict: permanent, err: fs.ErrPermission}
	}
	if err != nil && errors.Is(err, fs.ErrNotExist) {
		return &answerError{text: "no token: " + err.Error(), verdict: dubious}
	}
	return err
}

func readToken(resp *http.Response, cred *credential, sent time.Time) error {
	defer resp.Body.Close()
	host := resp.Request.URL.Host
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return connectionError(host, err)
	}
	var t struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return protocolError(host, "the token is not in JSON")
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" {
		return protocolError(host, "no token in the token server's answer")
	}
	life := defaultTokenLife
	if t.ExpiresIn > 0 {
		life = time.Duration(min(t.ExpiresIn, longestTokenLife.Seconds()) * float64(time.Second))
	}
	if life >= 30*time.Second {
		life -= min(life/10, 10*time.Second)
	}
	cred.header = "Bearer " + t.Token
	cred.secrets = append(cred.secrets, t.Token)
	cred.expires = sent.Add(life)
	return nil
}

func denied(host, format string, args ...any) error {
	return &answerError{text: host + ": " + fmt.Sprintf(format, args...), verdict: permanent, err: fs.ErrPermission}
}

func basicHeader(cfg authn.AuthConfig) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(cfg.Username+":"+cfg.Password))
}

func validHeader(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return len(v) <= 64<<10
}
