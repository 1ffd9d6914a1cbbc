// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// IDMap is one range of a user namespace, as Docker sends it.
type IDMap struct {
	ContainerID int `json:"container_id"`
	HostID      int `json:"host_id"`
	Size        int `json:"size"`
}

// Config is what Init says. It is kept in state.json, because Docker does not repeat Init when it restarts a plugin that
// has crashed.
type Config struct {
	Home    string   `json:"home"` // Docker's idea of where data lies; only recorded
	Opts    []string `json:"opts,omitempty"`
	UIDMaps []IDMap  `json:"uidMaps,omitempty"`
	GIDMaps []IDMap  `json:"gidMaps,omitempty"`
}

// sameStore tells whether a store opened with c can go on serving under o.
func (c *Config) sameStore(o *Config) bool {
	return slices.Equal(c.Opts, o.Opts) && slices.Equal(c.UIDMaps, o.UIDMaps) && slices.Equal(c.GIDMaps, o.GIDMaps)
}

func (d *Driver) statePath() string { return filepath.Join(d.root, "state.json") }

func (d *Driver) saveState(c *Config) error {
	j, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return writeFileAtomic(d.statePath(), fmt.Appendf(nil, "%s\nsha256:%x\n", j, sha256.Sum256(j)))
}

// loadState returns nil without error when no Init was ever kept.
func (d *Driver) loadState() (*Config, error) {
	data, err := readFileLimit(d.statePath(), recordLimit)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	j, sum, _ := bytes.Cut(data, []byte("\n"))
	if string(sum) != fmt.Sprintf("sha256:%x\n", sha256.Sum256(j)) {
		return nil, fmt.Errorf("%s is damaged: its checksum does not fit", d.statePath())
	}
	c := new(Config)
	if err := json.Unmarshal(j, c); err != nil {
		return nil, fmt.Errorf("%s: %w", d.statePath(), err)
	}
	return c, nil
}
