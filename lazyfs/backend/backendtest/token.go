// SPDX-License-Identifier: Apache-2.0

package backendtest

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"strings"
	"time"
)

var quiet = log.New(io.Discard, "", 0)

// TokenMark begins every token.
const TokenMark = "t0k3n-"

func (r *Registry) authorized(q *http.Request, c Config) bool {
	if c.TokenTTL == 0 {
		user, password, _ := q.BasicAuth()
		return user == c.User && password == c.Password
	}
	token, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	r.mu.Lock()
	defer r.mu.Unlock()
	end, known := r.tokens[token]
	if ok && known && time.Now().After(end) {
		r.expired++
	}
	return ok && known && time.Now().Before(end)
}

func (r *Registry) serveToken(w http.ResponseWriter, q *http.Request, c Config) {
	switch {
	case c.TokenFault != OK:
		c.TokenFault.serve(w, q, nil)
		return
	case q.Method == http.MethodPost && c.RefreshToken == "":
		w.WriteHeader(http.StatusNotFound)
		return
	case q.Method == http.MethodPost:
		if q.FormValue("grant_type") != "refresh_token" || q.FormValue("refresh_token") != c.RefreshToken {
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "bad refresh token "+q.FormValue("refresh_token"))
			return
		}
	case c.User != "":
		user, password, _ := q.BasicAuth()
		if user != c.User || password != c.Password {
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "bad password "+password+" "+q.Header.Get("Authorization"))
			return
		}
	}
	if q.FormValue("scope") != "repository:"+Repo+":pull" || q.FormValue("service") != "fault registry, quoted" {
		refuse(w, http.StatusBadRequest, "UNSUPPORTED", "bad scope or service")
		return
	}
	answer := map[string]any{}
	token := TokenMark + rand.Text()
	if q.Method == http.MethodPost {
		answer["access_token"] = token
	} else {
		answer["token"] = token
	}
	if !c.HideTTL {
		answer["expires_in"] = c.TokenTTL.Seconds()
	}
	r.mu.Lock()
	r.tokens[token] = time.Now().Add(c.TokenTTL)
	r.mu.Unlock()
	json.NewEncoder(w).Encode(answer)
}
