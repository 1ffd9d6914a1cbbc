// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"lighter/graphdriver"
	"lighter/lazyfs/mounts"
)

// mounterSocket is where the worker mounts for the driver: POST /mount and
// /unmount with a mountCall. It lies in the plugin's own root file system.
const mounterSocket = "/run/lighter/mounter.sock"

// mountCall is the body of both calls; an unmount needs the id alone.
type mountCall struct {
	ID     string
	Layer  graphdriver.LazyLayer
	Target string
}

// mounterHandler does what the driver asks for.
func mounterHandler(m *mounts.Manager) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(context.Context, mountCall) error) {
		mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			var c mountCall
			err := json.NewDecoder(r.Body).Decode(&c)
			if err == nil {
				err = do(r.Context(), c)
			}
			if err != nil {
				answer(rw, http.StatusInternalServerError, map[string]string{"error": err.Error()})
				return
			}
			answer(rw, http.StatusOK, struct{}{})
		})
	}
	handle("POST /mount", func(ctx context.Context, c mountCall) error {
		return m.Mount(ctx, c.ID, mounts.Spec{
			Bootstrap: c.Layer.Bootstrap, Digest: c.Layer.Digest, MetaDir: c.Layer.MetaDir,
			Repositories: c.Layer.Repositories, BlobDirs: c.Layer.BlobDirs, Probe: true,
		}, c.Target)
	})
	handle("POST /unmount", func(ctx context.Context, c mountCall) error { return m.Unmount(ctx, c.ID) })
	return mux
}

// mounter is the driver's Mounter: it asks the worker.
type mounter struct{ client *http.Client }

func dialMounter(socket string) mounter {
	return mounter{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (m mounter) Mount(ctx context.Context, id string, l graphdriver.LazyLayer, target string) error {
	return m.call(ctx, "mount", mountCall{ID: id, Layer: l, Target: target})
}

func (m mounter) Unmount(ctx context.Context, id string) error {
	return m.call(ctx, "unmount", mountCall{ID: id})
}

func (m mounter) call(ctx context.Context, verb string, c mountCall) error {
	body, err := json.Marshal(c)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://worker/"+verb, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: ask the worker: %w", verb, c.ID, err)
	}
	defer resp.Body.Close()
	var reply struct{ Error string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&reply); err != nil {
		return fmt.Errorf("%s %s: the worker's answer: %w", verb, c.ID, err)
	}
	if reply.Error != "" {
		return errors.New(reply.Error)
	}
	return nil
}
