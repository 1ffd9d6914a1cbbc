// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"lighter/convert"
)

func newCopy() *cobra.Command {
	var p places
	var mode string
	var asJSON bool
	var jobs int
	cmd := &cobra.Command{
		Use:   "copy SOURCE TARGET",
		Short: "Copy an image whole: index, manifests, blobs and the children's tags",
		Example: `  lighter copy registry.example/app:1-nydus mirror.example/app:1-nydus
  lighter copy registry.example/app:1-nydus oci-archive:app.tar:1-nydus`,
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			srcRef, err := convert.ParseReference(args[0], p.plainHTTP)
			if err != nil {
				return err
			}
			ref, err := convert.ParseReference(args[1], p.plainHTTP)
			if err != nil {
				return err
			}
			if ref, err = targetTag(ref); err != nil {
				return err
			}
			show, err := newProgress(mode, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer show.close()
			src, err := convert.OpenSource(cmd.Context(), srcRef, p.io(jobs))
			if err != nil {
				return err
			}
			defer src.Close()
			sink, err := convert.OpenSink(cmd.Context(), ref, p.io(jobs))
			if err != nil {
				return fmt.Errorf("target: %w", err)
			}
			defer func() { err = errors.Join(err, sink.Close()) }()
			res, err := convert.Copy(cmd.Context(), src, sink, ref.Tag, convert.CopyOptions{Jobs: jobs, Progress: show.event})
			if err != nil {
				return err
			}
			show.close()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), res)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n%d manifests, %d blobs, %d of them new (%s)\n", ref, res.Digest, res.Manifests, res.Blobs, res.Stored, bytesText(res.Bytes))
			return nil
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&mode, "progress", "auto", "auto, plain or json")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	cmd.Flags().IntVar(&jobs, "jobs", 0, "blobs at a time (0: 4)")
	return cmd
}
