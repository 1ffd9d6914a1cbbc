// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lighter/convert"
	"lighter/format"
)

func newDiff() *cobra.Command {
	var p places
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff IMAGE IMAGE",
		Short: "What differs between the trees of two images; fetches hardly more than their bootstraps",
		Long: `What differs between the trees of two images, a line for each path: A, D or M (with
what was modified). Contents are compared by the digests in the bootstraps; data is
fetched only where chunk sizes or digest algorithms differ. Of an ordinary image all
layers are fetched. The exit status is 1 when the images differ.`,
		Example: `  lighter diff registry.example/app:1-nydus registry.example/app:2-nydus
  lighter diff --json oci:/images/app:1-nydus registry.example/app:1`,
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			w := bufio.NewWriter(cmd.OutOrStdout())
			n, err := p.diff(cmd.Context(), w, args[0], args[1], asJSON)
			if err = errors.Join(err, w.Flush()); err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("%s and %s %w in %d paths", args[0], args[1], errDiffer, n)
			}
			return nil
		},
	}
	p.flags(cmd)
	p.platformFlag(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	return cmd
}

// errDiffer ends a comparison that found something.
var errDiffer = errors.New("differ")

// sideOf is one of two images that are compared.
type sideOf struct {
	image *convert.Image
	src   convert.Source
	dir   string
}

func (p *places) sideOf(ctx context.Context, name string) (_ *sideOf, err error) {
	want, err := p.wanted()
	if err != nil {
		return nil, err
	}
	s := &sideOf{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if _, s.src, err = p.source(ctx, name); err != nil {
		return nil, err
	}
	if s.image, err = convert.OpenImage(ctx, s.src, want); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.dir, err = os.MkdirTemp(p.workDir, "lighter-view-")
	return s, err
}

func (s *sideOf) close() {
	if s.src != nil {
		s.src.Close()
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

// diff writes the differences to w and counts them.
func (p *places) diff(ctx context.Context, w io.Writer, nameA, nameB string, asJSON bool) (n int, err error) {
	var sides [2]*sideOf
	for k, name := range []string{nameA, nameB} {
		if sides[k], err = p.sideOf(ctx, name); err != nil {
			return 0, err
		}
		defer sides[k].close()
	}
	// An ordinary image is cut into chunks like the other one.
	order := []int{0, 1}
	if sides[0].image.Kind == convert.KindOrdinary {
		order = []int{1, 0}
	}
	var trees [2]convert.Tree
	var like *format.Info
	for _, k := range order {
		t, closer, err := convert.OpenTree(ctx, sides[k].image, sides[k].dir, like)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", []string{nameA, nameB}[k], err)
		}
		defer closer.Close()
		info := t.Bootstrap.Info()
		trees[k], like = t, &info
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	err = convert.CompareTrees(ctx, trees[0], trees[1], func(d convert.Difference) error {
		n++
		if asJSON {
			return enc.Encode(d)
		}
		_, err := fmt.Fprintln(w, diffLine(d))
		return err
	})
	return n, err
}

func diffLine(d convert.Difference) string {
	letter := map[convert.ChangeKind]string{convert.Added: "A", convert.Removed: "D", convert.Changed: "M"}[d.Change]
	if len(d.What) == 0 {
		return letter + " " + shown(d.Path)
	}
	return letter + " " + shown(d.Path) + " (" + strings.Join(d.What, ", ") + ")"
}
