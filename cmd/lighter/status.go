// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"lighter/lazyfs"
)

// status is what the plugin tells of itself.
type status struct {
	Version string       `json:"version"`
	PID     int          `json:"pid"`
	Started time.Time    `json:"started"`
	Mounts  int          `json:"mounts"`
	Cache   lazyfs.Stats `json:"cache"`
}

func newStatus() *cobra.Command {
	var c control
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "What the running plugin does and has done",
		Example: "  lighter status\n  lighter status --json | jq .cache",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.showStatus(cmd, printStatus)
		},
	}
	c.flags(cmd)
	return cmd
}

func (c *control) showStatus(cmd *cobra.Command, text func(io.Writer, *status)) error {
	raw, err := c.ask(cmd.Context(), http.MethodGet, "/v1/status")
	if err != nil {
		return err
	}
	var s status
	return c.show(cmd, raw, &s, func(w io.Writer) { text(w, &s) })
}

func printStatus(w io.Writer, s *status) {
	fmt.Fprintf(w, "version  %s, process %d, up %s\n", s.Version, s.PID, time.Since(s.Started).Round(time.Second))
	fmt.Fprintf(w, "mounts   %d, %d images open\n", s.Mounts, s.Cache.Images)
	fmt.Fprintf(w, "reads    %d (%s), %d failed, %d timed out\n", s.Cache.Reads, bytesText(s.Cache.ReadBytes), s.Cache.ReadErrors, s.Cache.Timeouts)
	fmt.Fprintf(w, "chunks   %d from memory, %d from the cache, %d from other blobs, %d fetched\n",
		s.Cache.MemoryHits, s.Cache.CacheHits, s.Cache.SharedHits, s.Cache.FetchedChunks)
	fmt.Fprintf(w, "fetches  %d (%s), %d failed, %d retries\n", s.Cache.FetchRequests, bytesText(s.Cache.FetchBytes), s.Cache.FetchErrors, s.Cache.FetchRetries)
	fmt.Fprintf(w, "verify   %d chunks wrong when fetched, %d refetched, %d given up, %d wrong in the cache\n",
		s.Cache.VerifyFailures, s.Cache.Refetches, s.Cache.Corrupt, s.Cache.CacheBad)
	printUsage(w, &s.Cache)
}

func printUsage(w io.Writer, s *lazyfs.Stats) {
	limit := "no limit"
	if s.CacheLimit > 0 {
		limit = "limit " + bytesText(s.CacheLimit)
	}
	fmt.Fprintf(w, "cache    %s on disk (%s of open images), %s in memory, %s\n",
		bytesText(s.CacheBytes), bytesText(s.PinnedBytes), bytesText(s.MemoryBytes), limit)
}
