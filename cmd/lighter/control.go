// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// controlGlob is where Docker shows the plugin's control socket on the host.
const controlGlob = "/var/lib/docker/plugins/*/propagated-mount/run/control.sock"

// controlTimeout bounds one question; pruning a large cache takes the longest.
const controlTimeout = 2 * time.Minute

// control asks the running plugin over its control socket.
type control struct {
	host string
	json bool
}

func (c *control) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.host, "host", "", "control socket, unix:///path (default: the installed plugin's)")
	cmd.Flags().BoolVar(&c.json, "json", false, "print the answer as JSON")
}

// socket finds the control socket: the one named, or the only one there is.
func (c *control) socket() (string, error) {
	if c.host != "" {
		path, ok := strings.CutPrefix(c.host, "unix://")
		if !ok || path == "" {
			return "", usagef("host %q is not unix:///path", c.host)
		}
		return path, nil
	}
	found, err := filepath.Glob(controlGlob)
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no running plugin found at %s (hint: docker plugin enable lighter, or --host unix:///path)", controlGlob)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("several plugins found: %s (hint: --host unix:///path)", strings.Join(found, ", "))
}

// maxAnswer bounds what is read of an answer (bytes).
const maxAnswer = 64 << 20

// ask sends one request and gives the answer's JSON.
func (c *control) ask(ctx context.Context, method, path string) (json.RawMessage, error) {
	sock, err := c.socket()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	// A socket's name may have 107 bytes and a plugin's path has more: go there by its directory's descriptor.
	dir, err := os.Open(filepath.Dir(sock))
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(sock))
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", short)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://lighter"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (hint: is the plugin enabled?)", sock, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sock, err)
	}
	if resp.StatusCode >= 400 {
		var e struct{ Error string }
		json.Unmarshal(raw, &e)
		return nil, fmt.Errorf("%s: %s: %s", sock, resp.Status, e.Error)
	}
	return raw, nil
}

// show prints an answer as it is, or decoded by text.
func (c *control) show(cmd *cobra.Command, raw json.RawMessage, into any, text func(io.Writer)) error {
	if c.json {
		return printJSON(cmd.OutOrStdout(), raw)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("the plugin's answer: %w", err)
	}
	text(cmd.OutOrStdout())
	return nil
}
