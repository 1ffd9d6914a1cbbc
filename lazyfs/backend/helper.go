// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	helperTime = 15 * time.Second
	// helperUnknown is what all helpers say of a server that they do not know.
	helperUnknown = "credentials not found in native keychain"
)

// askHelper runs docker-credential-<name> get (Docker's credential helper
// protocol: the server's URL on standard input, JSON on standard output).
func askHelper(ctx context.Context, name, server string) (cfg authn.AuthConfig, found bool, err error) {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		return cfg, false, fmt.Errorf("credential helper %q has a bad name", redact(name))
	}
	program := "docker-credential-" + name
	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(server)
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if strings.Contains(out.String(), helperUnknown) {
			return cfg, false, nil
		}
		// Its output is not told: it might be the secret.
		return cfg, false, fmt.Errorf("%s for %s: %w", program, server, err)
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal(out.Bytes(), &answer) != nil {
		return cfg, false, fmt.Errorf("%s for %s: answer is not valid JSON", program, server)
	}
	if answer.Username == "<token>" {
		return authn.AuthConfig{IdentityToken: answer.Secret}, true, nil
	}
	return authn.AuthConfig{Username: answer.Username, Password: answer.Secret}, answer.Secret != "", nil
}
