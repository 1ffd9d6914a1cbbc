// SPDX-License-Identifier: Apache-2.0

// Package drivertest runs Docker's own graph driver suite against a driver that is reached through a plugin socket.
//
// Client is the other side of that socket: it speaks the protocol as dockerd does, and is a graph driver for whoever
// uses it. Suite registers it with Docker's registry of drivers and runs Docker's cases with it.
package drivertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/moby/go-archive"
	moby "github.com/moby/moby/v2/daemon/graphdriver"
)

// Client is a graph driver behind a unix socket. Its methods may be called at the same time.
type Client struct {
	http http.Client
	// MapDir, when set, turns a directory that Get returned into one that this process can see.
	MapDir func(dir string) string
}

var _ moby.Driver = (*Client)(nil)

// Dial returns a client of the plugin that listens on the socket. It connects at the first call.
func Dial(socket string) *Client {
	c := new(Client)
	c.http.Transport = &http.Transport{
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// Close lets the connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

type request struct {
	Home       string            `json:",omitempty"`
	Opts       []string          `json:",omitempty"`
	ID         string            `json:",omitempty"`
	Parent     string            `json:",omitempty"`
	MountLabel string            `json:",omitempty"`
	StorageOpt map[string]string `json:",omitempty"`
}

type reply struct {
	Err          string
	Dir          string
	Exists       bool
	Status       [][2]string
	Changes      []archive.Change
	Size         int64
	Metadata     map[string]string
	Capabilities struct{ ReproducesExactDiffs bool }
}

func (c *Client) post(call string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequest("POST", "http://plugin/"+call, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var r reply
	if json.Unmarshal(text, &r) == nil && r.Err != "" {
		return nil, fmt.Errorf("%s: %s", call, r.Err)
	}
	return nil, errors.Join(fmt.Errorf("%s: %s: %s", call, resp.Status, text), err)
}

// Call makes one call with a JSON body, and returns the error that the plugin answers.
func (c *Client) call(call string, q *request) (*reply, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	resp, err := c.post("GraphDriver."+call, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return decode(resp)
}

func decode(resp *http.Response) (*reply, error) {
	defer resp.Body.Close()
	r := new(reply)
	if err := json.NewDecoder(resp.Body).Decode(r); err != nil {
		return nil, err
	}
	if r.Err != "" {
		return nil, errors.New(r.Err)
	}
	return r, nil
}

// Init sends Docker's first call.
func (c *Client) Init(home string, opts []string) error {
	_, err := c.call("Init", &request{Home: home, Opts: opts})
	return err
}

// ExactDiffs tells whether the driver claims to give diffs back bit for bit.
func (c *Client) ExactDiffs() (bool, error) {
	r, err := c.call("Capabilities", &request{})
	if err != nil {
		return false, err
	}
	return r.Capabilities.ReproducesExactDiffs, nil
}

// String implements Docker's driver, as the methods below do.
func (c *Client) String() string { return "plugin" }

func createRequest(id, parent string, o *moby.CreateOpts) *request {
	q := &request{ID: id, Parent: parent}
	if o != nil {
		q.MountLabel, q.StorageOpt = o.MountLabel, o.StorageOpt
	}
	return q
}

func (c *Client) Create(id, parent string, o *moby.CreateOpts) error {
	_, err := c.call("Create", createRequest(id, parent, o))
	return err
}

func (c *Client) CreateReadWrite(id, parent string, o *moby.CreateOpts) error {
	_, err := c.call("CreateReadWrite", createRequest(id, parent, o))
	return err
}

func (c *Client) Remove(id string) error {
	_, err := c.call("Remove", &request{ID: id})
	return err
}

func (c *Client) Get(id, mountLabel string) (string, error) {
	r, err := c.call("Get", &request{ID: id, MountLabel: mountLabel})
	if err != nil {
		return "", err
	}
	if c.MapDir != nil {
		return c.MapDir(r.Dir), nil
	}
	return r.Dir, nil
}

func (c *Client) Put(id string) error {
	_, err := c.call("Put", &request{ID: id})
	return err
}

func (c *Client) Exists(id string) bool {
	r, err := c.call("Exists", &request{ID: id})
	return err == nil && r.Exists
}

func (c *Client) Status() [][2]string {
	r, err := c.call("Status", &request{})
	if err != nil {
		return [][2]string{{"Error", err.Error()}}
	}
	return r.Status
}

func (c *Client) GetMetadata(id string) (map[string]string, error) {
	r, err := c.call("GetMetadata", &request{ID: id})
	if err != nil {
		return nil, err
	}
	return r.Metadata, nil
}

func (c *Client) Cleanup() error {
	_, err := c.call("Cleanup", &request{})
	return err
}

func (c *Client) Diff(id, parent string) (io.ReadCloser, error) {
	body, err := json.Marshal(&request{ID: id, Parent: parent})
	if err != nil {
		return nil, err
	}
	resp, err := c.post("GraphDriver.Diff", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (c *Client) Changes(id, parent string) ([]archive.Change, error) {
	r, err := c.call("Changes", &request{ID: id, Parent: parent})
	if err != nil {
		return nil, err
	}
	return r.Changes, nil
}

func (c *Client) ApplyDiff(id, parent string, diff io.Reader) (int64, error) {
	resp, err := c.post("GraphDriver.ApplyDiff?"+url.Values{"id": {id}, "parent": {parent}}.Encode(), io.NopCloser(diff))
	if err != nil {
		return 0, err
	}
	r, err := decode(resp)
	if err != nil {
		return 0, err
	}
	return r.Size, nil
}

func (c *Client) DiffSize(id, parent string) (int64, error) {
	r, err := c.call("DiffSize", &request{ID: id, Parent: parent})
	if err != nil {
		return 0, err
	}
	return r.Size, nil
}
