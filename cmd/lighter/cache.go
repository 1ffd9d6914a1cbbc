// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"
)

func newCache() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cache",
		Short:   "The running plugin's chunk cache",
		Example: "  lighter cache du\n  lighter cache prune --keep 10GiB",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    needsVerb,
	}
	cmd.AddCommand(newCacheDu(), newCachePrune())
	return cmd
}

func newCacheDu() *cobra.Command {
	var c control
	cmd := &cobra.Command{
		Use:     "du",
		Short:   "What the cache holds",
		Example: "  lighter cache du",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.showStatus(cmd, func(w io.Writer, s *status) { printUsage(w, &s.Cache) })
		},
	}
	c.flags(cmd)
	return cmd
}

func newCachePrune() *cobra.Command {
	var c control
	var keep string
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Drop cached chunks that no open image needs, the longest unused first",
		Example: "  lighter cache prune --keep 10GiB",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := parseSize(keep)
			if err != nil {
				return err
			}
			raw, err := c.ask(cmd.Context(), http.MethodPost, fmt.Sprintf("/v1/cache/prune?keep=%d", n))
			if err != nil {
				return err
			}
			var answer struct {
				Freed int64 `json:"freed"`
			}
			return c.show(cmd, raw, &answer, func(w io.Writer) { fmt.Fprintf(w, "freed %s\n", bytesText(answer.Freed)) })
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&keep, "keep", "0", "bytes that may stay, such as 10GiB")
	return cmd
}
