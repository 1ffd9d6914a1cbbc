// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Config is a backend as nydusd's JSON configuration describes it, in the form
// of version 2 ("backend") or the older one ("device.backend"). Settings that
// would weaken or reroute connections are refused, those about timing ignored.
type Config struct {
	Registry *RegistryConfig // nil unless it is the type
	LocalFS  *LocalFSConfig  // nil unless it is the type
}

// RegistryConfig is nydusd's backend of type "registry".
type RegistryConfig struct {
	Host   string `json:"host"`
	Repo   string `json:"repo"`
	Scheme string `json:"scheme"`         // "", "https" or "http"
	Auth   string `json:"auth"`           // base64 of user:password
	Token  string `json:"registry_token"` // bearer token

	SkipVerify     bool     `json:"skip_verify"`
	CACertFiles    []string `json:"ca_cert_files"`
	BlobScheme     string   `json:"blob_url_scheme"`
	RedirectedHost string   `json:"blob_redirected_host"`
	Proxy          struct {
		URL string `json:"url"`
	} `json:"proxy"`
}

// LocalFSConfig is nydusd's backend of type "localfs": one file that is the blob,
// else directories with files named by blob id.
type LocalFSConfig struct {
	BlobFile string   `json:"blob_file"`
	Dir      string   `json:"dir"`
	AltDirs  []string `json:"alt_dirs"`
}

// maxNydusdConfig is nydusd's own limit, in bytes.
const maxNydusdConfig = 1 << 20

// ParseConfig reads nydusd's configuration. What it does not need, it ignores.
func ParseConfig(raw []byte) (*Config, error) {
	if len(raw) > maxNydusdConfig {
		return nil, errors.New("nydusd config is larger than 1 MiB")
	}
	type backendConfig struct {
		Type     string          `json:"type"`
		Config   json.RawMessage `json:"config"`
		Registry json.RawMessage `json:"registry"`
		LocalFS  json.RawMessage `json:"localfs"`
	}
	var file struct {
		Backend *backendConfig `json:"backend"`
		Device  struct {
			Backend *backendConfig `json:"backend"`
		} `json:"device"`
	}
	// Errors of the decoder are not told: they may quote a secret.
	if json.Unmarshal(raw, &file) != nil {
		return nil, errors.New("nydusd config is not valid JSON")
	}
	b := file.Backend
	if b == nil {
		b = file.Device.Backend
	}
	if b == nil {
		return nil, errors.New("nydusd config has no backend")
	}
	c := &Config{}
	var section json.RawMessage
	var into any
	switch b.Type {
	case "registry":
		c.Registry = &RegistryConfig{}
		section, into = b.Registry, c.Registry
	case "localfs":
		c.LocalFS = &LocalFSConfig{}
		section, into = b.LocalFS, c.LocalFS
	default:
		return nil, fmt.Errorf("nydusd config: backend type %q is not supported", redact(b.Type))
	}
	if section == nil {
		section = b.Config
	}
	if section == nil || json.Unmarshal(section, into) != nil {
		return nil, fmt.Errorf("nydusd config: no valid settings of the %s backend", b.Type)
	}
	return c, c.check()
}

func (c *Config) check() error {
	if l := c.LocalFS; l != nil {
		if l.BlobFile == "" && l.Dir == "" {
			return errors.New("nydusd config: localfs needs blob_file or dir")
		}
		return nil
	}
	r := c.Registry
	switch {
	case r.Host == "" || r.Repo == "":
		return errors.New("nydusd config: registry needs host and repo")
	case r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https":
		return errors.New("nydusd config: registry scheme is neither http nor https")
	case r.SkipVerify:
		return errors.New("nydusd config: skip_verify is not supported: name the authority in a certificates directory")
	case len(r.CACertFiles) > 0:
		return errors.New("nydusd config: ca_cert_files is not supported: use a certificates directory")
	case r.BlobScheme != "" || r.RedirectedHost != "":
		return errors.New("nydusd config: blob_url_scheme and blob_redirected_host are not supported")
	case r.Proxy.URL != "":
		return errors.New("nydusd config: proxy is not supported: use the environment (HTTPS_PROXY)")
	case r.Auth != "" && r.auth() == nil:
		return errors.New("nydusd config: registry auth is not base64 of user:password")
	}
	return nil
}

// auth decodes Auth and Token; nil if Auth is not valid.
func (r *RegistryConfig) auth() authn.Authenticator {
	var cfg authn.AuthConfig
	raw, err := json.Marshal(map[string]string{"auth": r.Auth, "registrytoken": r.Token})
	if err != nil || json.Unmarshal(raw, &cfg) != nil {
		return nil
	}
	return authn.FromConfig(cfg)
}

// Resolve makes the credentials those for all that this registry asks for.
func (r *RegistryConfig) Resolve(authn.Resource) (authn.Authenticator, error) { return r.auth(), nil }

// Opener returns the store. Of o, the keychain is used if the configuration has
// no credentials, and PlainHTTP decides if it names no scheme.
func (c *Config) Opener(o RegistryOptions) Opener {
	if r := c.Registry; r != nil {
		if r.Auth != "" || r.Token != "" {
			o.Keychain = r
		}
		given := o.PlainHTTP
		if given == nil {
			given = loopbackHost
		}
		o.PlainHTTP = func(host string) bool {
			if host == r.Host && r.Scheme != "" {
				return r.Scheme == "http"
			}
			return given(host)
		}
		return NewRegistry(o).Repository(r.Host + "/" + r.Repo)
	}
	if c.LocalFS.BlobFile != "" {
		return blobFile(c.LocalFS.BlobFile)
	}
	var dirs []Opener
	for _, dir := range append([]string{c.LocalFS.Dir}, c.LocalFS.AltDirs...) {
		if dir != "" {
			dirs = append(dirs, NewDir(dir))
		}
	}
	return Chain(dirs...)
}
