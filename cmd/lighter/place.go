// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"lighter/convert"
	"lighter/format"
	"lighter/lazyfs/backend"
)

// places are the flags shared by the verbs that open images.
type places struct {
	plainHTTP bool
	workDir   string
	platform  string
	bootstrap string // a bare one, in place of IMAGE
	blobs     string
}

func (p *places) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.plainHTTP, "plain-http", false, "speak to registries without TLS (loopback ones always may be)")
	cmd.Flags().StringVar(&p.workDir, "work-dir", "", "directory for temporary files (default: $TMPDIR or /tmp)")
}

func (p *places) platformFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.platform, "platform", "", "os/arch[/variant] (default: this machine's)")
}

func (p *places) bareFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.bootstrap, "bootstrap", "", "a bare bootstrap, in place of IMAGE")
	cmd.Flags().StringVar(&p.blobs, "blobs", "", "directory of its blobs, named by id")
}

// imageArgs wants IMAGE, unless there is a bare bootstrap, and low to high more arguments.
func (p *places) imageArgs(low, high int) cobra.PositionalArgs {
	return usageArgs(func(cmd *cobra.Command, args []string) error {
		if p.blobs != "" && p.bootstrap == "" {
			return errors.New("--blobs goes with --bootstrap")
		}
		if p.bootstrap != "" {
			return cobra.RangeArgs(low, high)(cmd, args)
		}
		return cobra.RangeArgs(low+1, high+1)(cmd, args)
	})
}

// split takes IMAGE, or the name of the bare bootstrap, off the arguments.
func (p *places) split(args []string) (name string, rest []string) {
	if p.bootstrap != "" {
		return p.bootstrap, args
	}
	return args[0], args[1:]
}

// certsDir is where Docker looks for the certificates of registries.
const certsDir = "/etc/docker/certs.d"

// transport is for all places of a run: they share connections.
var transport = sync.OnceValue(func() http.RoundTripper { return backend.WithCerts(certsDir, convert.NewTransport()) })

func (p *places) io(jobs int) convert.IOOptions {
	return convert.IOOptions{PlainHTTP: p.plainHTTP, WorkDir: p.workDir, Jobs: jobs, Transport: transport()}
}

func (p *places) source(ctx context.Context, s string) (convert.Reference, convert.Source, error) {
	ref, err := convert.ParseReference(s, p.plainHTTP)
	if err != nil {
		return ref, nil, err
	}
	src, err := convert.OpenSource(ctx, ref, p.io(0))
	return ref, src, err
}

func (p *places) wanted() (*v1.Platform, error) {
	if p.platform == "" {
		return nil, nil
	}
	return parsePlatform(p.platform)
}

func parsePlatform(s string) (*v1.Platform, error) {
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return nil, usagef("platform %q is not os/arch[/variant]", s)
	}
	return p, nil
}

// view is an opened Nydus image and what has to be given back after use. A bare
// bootstrap has neither image nor opened.
type view struct {
	boot   *format.Bootstrap
	open   format.OpenBlob
	image  *convert.Image
	opened *convert.Opened
	src    convert.Source
	dir    string
	ended  func()
}

func (p *places) view(ctx context.Context, name string) (_ *view, err error) {
	want, err := p.wanted()
	if err != nil {
		return nil, err
	}
	v := &view{}
	if p.bootstrap != "" {
		v.boot, v.ended, err = openBootstrap(p.bootstrap)
		v.open = blobsIn(p.blobs)
		return v, err
	}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	if _, v.src, err = p.source(ctx, name); err != nil {
		return nil, err
	}
	if v.image, err = convert.OpenImage(ctx, v.src, want); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if v.dir, err = os.MkdirTemp(p.workDir, "lighter-view-"); err != nil {
		return nil, err
	}
	if v.opened, err = v.image.Open(ctx, v.dir); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	v.boot, v.open = v.opened.Bootstrap, v.opened.OpenBlob
	return v, nil
}

func (v *view) close() {
	if v.ended != nil {
		v.ended()
	}
	if v.opened != nil {
		v.opened.Close()
	}
	if v.src != nil {
		v.src.Close()
	}
	if v.dir != "" {
		os.RemoveAll(v.dir)
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// bytesText shows a size as people read it.
func bytesText(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), "kMGTP"
	i := -1
	for f >= 999.5 && i < len(units)-1 {
		f /= 1000
		i++
	}
	return fmt.Sprintf("%.3g %cB", f, units[i])
}

// parseSize reads bytes: 1048576, 0x100000, 1MiB, 64k.
func parseSize(s string) (int64, error) {
	t := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s)), "b"), "i")
	shift := 0
	if len(t) > 1 && !strings.HasPrefix(t, "0x") {
		if i := strings.IndexByte("kmgt", t[len(t)-1]); i >= 0 {
			shift, t = 10*(i+1), t[:len(t)-1]
		}
	}
	var n int64
	if _, err := fmt.Sscanf(t+"\n", "%v\n", &n); err != nil || n < 0 || n > 1<<62>>shift {
		return 0, usagef("size %q is not a number of bytes such as 1048576, 0x100000 or 1MiB", s)
	}
	return n << shift, nil
}
