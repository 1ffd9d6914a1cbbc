// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lighter/lazyfs/mounts"
)

func newPs() *cobra.Command {
	var c control
	cmd := &cobra.Command{
		Use:     "ps",
		Short:   "The images that the running plugin has mounted",
		Example: "  lighter ps",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := c.ask(cmd.Context(), http.MethodGet, "/v1/mounts")
			if err != nil {
				return err
			}
			var answer struct {
				Mounts []mounts.Status `json:"mounts"`
			}
			return c.show(cmd, raw, &answer, func(w io.Writer) { printMounts(w, answer.Mounts) })
		},
	}
	c.flags(cmd)
	return cmd
}

func printMounts(w io.Writer, list []mounts.Status) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "ID\tCOMPLETE\tFROM\tTARGET\tERROR")
	for _, m := range list {
		from := strings.Join(slices.Concat(m.Spec.Repositories, m.Spec.BlobDirs), ",")
		fmt.Fprintf(tw, "%s\t%t\t%s\t%s\t%s\n", shown(m.ID), m.Complete, shown(from), shown(m.Target), oneLine(errors.New(m.Error)))
	}
	tw.Flush()
}
