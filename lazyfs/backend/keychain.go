// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// maxConfigSize bounds a config.json, in bytes.
const maxConfigSize = 1 << 20

// NewKeychain returns the credentials in Docker config.json files, the first file
// that has some for a registry counting, and then those of
// [authn.DefaultKeychain]. The files are read when credentials are asked for, so
// that they may change or come to exist later; an absent or empty one has none.
func NewKeychain(paths ...string) authn.Keychain {
	var all []authn.Keychain
	for _, path := range paths {
		if path != "" {
			all = append(all, fileKeychain(path))
		}
	}
	return authn.NewMultiKeychain(append(all, authn.DefaultKeychain)...)
}

// NewContentKeychain returns the credentials in the content of a Docker
// config.json, as it is or in base64. Empty content has none.
func NewContentKeychain(content string) (authn.Keychain, error) {
	raw := []byte(strings.TrimSpace(content))
	if len(raw) > 0 && raw[0] != '{' {
		decoded, err := base64.StdEncoding.DecodeString(string(raw))
		if err != nil {
			return nil, errors.New("docker config is neither JSON nor base64")
		}
		raw = decoded
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	return c, nil
}

type fileKeychain string

func (k fileKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

func (k fileKeychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	f, err := os.Open(string(k))
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return nil, err
	}
	c, err := parseConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", string(k), err)
	}
	return c.ResolveContext(ctx, r)
}

// dockerConfig is the part of Docker's config.json that is about credentials.
type dockerConfig struct {
	Auths   map[string]authn.AuthConfig `json:"auths"`
	Store   string                      `json:"credsStore"`
	Helpers map[string]string           `json:"credHelpers"`
}

func parseConfig(raw []byte) (*dockerConfig, error) {
	c := &dockerConfig{}
	if len(bytes.TrimSpace(raw)) == 0 {
		return c, nil
	}
	if len(raw) > maxConfigSize {
		return nil, errors.New("docker config is larger than 1 MiB")
	}
	// The error of the decoder may quote a secret.
	if json.Unmarshal(raw, c) != nil {
		return nil, errors.New("docker config is not valid JSON, or an auth in it not valid base64")
	}
	return c, nil
}

func (c *dockerConfig) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return c.ResolveContext(context.Background(), r)
}

// ResolveContext looks for the repository, then for the paths above it, then for
// the host: with a credential helper where one is named, else in the file.
func (c *dockerConfig) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	for key := r.String(); ; key = key[:strings.LastIndexByte(key, '/')] {
		host := !strings.Contains(key, "/")
		cfg, found, err := c.find(ctx, key, host)
		if err != nil {
			return nil, err
		}
		if found {
			return authn.FromConfig(cfg), nil
		}
		if host {
			return authn.Anonymous, nil
		}
	}
}

func (c *dockerConfig) find(ctx context.Context, key string, host bool) (cfg authn.AuthConfig, found bool, err error) {
	for stored, a := range c.Auths {
		if configKey(stored) != key || a == (authn.AuthConfig{}) {
			continue
		}
		cfg, found = a, true
		break
	}
	helper := ""
	for stored, h := range c.Helpers {
		if configKey(stored) == key {
			helper = h
		}
	}
	if helper == "" && host && !found {
		helper = c.Store
	}
	if helper == "" {
		return cfg, found, nil
	}
	return askHelper(ctx, helper, serverURL(key))
}

// configKey brings the key of an entry to the form host[/path]: older ones are URLs.
func configKey(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	key = strings.TrimSuffix(strings.TrimSuffix(key, "/v1"), "/v2")
	if key == "docker.io" || strings.HasPrefix(key, "docker.io/") {
		key = "index." + key
	}
	return key
}

// serverURL is the name under which docker login stores the host of key.
func serverURL(key string) string {
	if key == name.DefaultRegistry {
		return authn.DefaultAuthKey
	}
	return key
}
