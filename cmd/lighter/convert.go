// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lighter/convert"
	"lighter/format"
)

type convertFlags struct {
	places
	compressor, digester, chunkSize, batchSize, dict, index, suffix, progress, prefetch string

	level, jobs, version int
	all, json, keepTar   bool
	ociRef               bool
	platforms            []string
}

func newConvert() *cobra.Command {
	var f convertFlags
	cmd := &cobra.Command{
		Use:   "convert SOURCE [TARGET]",
		Short: "Make an accelerated image of an ordinary one",
		Long: `Make an accelerated (Nydus) image of an ordinary one.

SOURCE and TARGET are registry.example/repo[:tag][@digest], oci:DIR[:TAG],
oci-archive:FILE[:TAG]; SOURCE also docker-archive:FILE[:NAME]. Without TARGET the
result goes beside the source, its tag with a suffix. Layers that an earlier
conversion left under the target's tag are not converted again.`,
		Example: `  lighter convert registry.example/app:1 registry.example/app:1-nydus
  lighter convert --all-platforms oci:/images/app:1 oci:/images/app:1-nydus
  docker save app:1 -o app.tar && lighter convert docker-archive:app.tar registry.example/app:1-nydus`,
		Args: usageArgs(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	f.flags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.compressor, "compressor", "zstd", "zstd, lz4_block, gzip or none")
	fl.IntVar(&f.level, "compression-level", 0, "level of the compressor (0: its default)")
	fl.StringVar(&f.digester, "digester", "blake3", "chunk digests: blake3 or sha256")
	fl.StringVar(&f.chunkSize, "chunk-size", "1MiB", "size of a chunk, a power of two from 4KiB to 16MiB")
	fl.IntVar(&f.version, "fs-version", 6, "6, which the kernel can mount, or 5, for old readers")
	fl.StringVar(&f.batchSize, "batch-size", "0", "compress small files together, in batches of this size (0: each alone)")
	fl.StringVar(&f.dict, "chunk-dict", "", "image or bootstrap whose chunks are not stored again")
	fl.StringVar(&f.prefetch, "prefetch", "", "file with absolute paths to read ahead, one per line (-: standard input)")
	fl.StringVar(&f.index, "index", "lazy", "lazy (index: bootstrap, full), merged (with the ordinary image as third) or none (full alone)")
	fl.StringVar(&f.suffix, "suffix", "-nydus", "added to the source's tag when TARGET is left out")
	fl.StringSliceVar(&f.platforms, "platform", nil, "os/arch[/variant], may be repeated (default: this machine's)")
	fl.BoolVar(&f.all, "all-platforms", false, "convert every platform of the source")
	fl.IntVar(&f.jobs, "jobs", 0, "layers at a time (0: one per CPU, at most 4)")
	fl.StringVar(&f.progress, "progress", "auto", "auto, plain or json")
	fl.BoolVar(&f.ociRef, "oci-ref", false, "leave the data in the source's own gzip (or uncompressed) layers; only an index of them is made")
	fl.BoolVar(&f.keepTar, "keep-tar", false, "keep what gives the layers' very bytes again (lighter export --image)")
	fl.BoolVar(&f.json, "json", false, "print the result as JSON")
	return cmd
}

// options turns flags into conversion options; all mistakes are usage errors.
func (f *convertFlags) options(stdin io.Reader) (convert.Options, error) {
	o := convert.Options{AllPlatforms: f.all, Jobs: f.jobs, KeepTar: f.keepTar, OCIRef: f.ociRef, WorkDir: f.workDir}
	c, err := format.ParseCompressor(f.compressor)
	if err != nil {
		return o, usagef("compressor %q is none of zstd, lz4_block, gzip, none", f.compressor)
	}
	if o.Build.Digester, err = format.ParseDigester(f.digester); err != nil {
		return o, usagef("digester %q is neither blake3 nor sha256", f.digester)
	}
	size, err := parseSize(f.chunkSize)
	if err != nil {
		return o, err
	}
	if size < 4096 || size > 16<<20 || size&(size-1) != 0 {
		return o, usagef("chunk size %s is not a power of two from 4KiB to 16MiB", f.chunkSize)
	}
	batch, err := parseSize(f.batchSize)
	if err != nil {
		return o, err
	}
	switch {
	case f.version != 5 && f.version != 6:
		return o, usagef("--fs-version %d is neither 6 nor 5", f.version)
	case batch != 0 && f.version == 5:
		return o, usagef("--batch-size needs --fs-version 6")
	case batch != 0 && (batch < 4096 || batch > size || batch&(batch-1) != 0):
		return o, usagef("batch size %s is not a power of two from 4KiB to the chunk size", f.batchSize)
	}
	o.Build.Version, o.Build.BatchSize = f.version, uint32(batch)
	o.Build.Compressor, o.Build.Level, o.Build.ChunkSize = &c, f.level, uint32(size)
	switch o.Index = convert.IndexMode(f.index); o.Index {
	case convert.IndexLazy, convert.IndexMerged, convert.IndexNone:
	default:
		return o, usagef("index %q is none of lazy, merged, none", f.index)
	}
	if f.ociRef && (f.version == 5 || f.batchSize != "" && f.batchSize != "0" || f.dict != "") {
		return o, usagef("--oci-ref makes no chunks: it goes without --fs-version 5, --batch-size and --chunk-dict")
	}
	if f.ociRef && f.keepTar {
		return o, usagef("--oci-ref and --keep-tar exclude each other: the layers themselves stay")
	}
	if f.all && len(f.platforms) > 0 {
		return o, usagef("--platform and --all-platforms exclude each other")
	}
	for _, s := range f.platforms {
		p, err := parsePlatform(s)
		if err != nil {
			return o, err
		}
		o.Platforms = append(o.Platforms, *p)
	}
	if f.jobs < 0 {
		return o, usagef("--jobs %d is negative", f.jobs)
	}
	o.Prefetch, err = readPaths(f.prefetch, stdin)
	return o, err
}

// readPaths reads the list of paths to read ahead.
func readPaths(name string, stdin io.Reader) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		stdin = f
	}
	var out []string
	sc := bufio.NewScanner(io.LimitReader(stdin, 64<<20))
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r")
		if line == "" {
			continue
		}
		if !strings.HasPrefix(line, "/") {
			return nil, fmt.Errorf("prefetch list: %q is not an absolute path", line)
		}
		out = append(out, line)
	}
	return out, sc.Err()
}

// target is what was typed, or the source's place with the suffix.
func (f *convertFlags) target(src convert.Reference, args []string) (convert.Reference, error) {
	if len(args) == 2 {
		ref, err := convert.ParseReference(args[1], f.plainHTTP)
		if err != nil {
			return ref, err
		}
		return targetTag(ref)
	}
	if src.Tag == "" || src.Kind == convert.KindDockerArchive || src.Kind == convert.KindOCIArchive {
		return src, usagef("%s: a target is needed", src)
	}
	return src.WithTag(src.Tag + f.suffix)
}

// targetTag refuses what cannot be written, and names the default tag.
func targetTag(ref convert.Reference) (convert.Reference, error) {
	if ref.Digest.Hex != "" {
		return ref, usagef("%s: a target is named by tag, not by digest", ref)
	}
	if ref.Kind == convert.KindDockerArchive {
		return ref, usagef("%s: docker archives can only be read (hint: oci-archive:FILE)", ref)
	}
	if ref.Tag == "" {
		return ref.WithTag("latest")
	}
	return ref, nil
}

func (f *convertFlags) run(cmd *cobra.Command, args []string) (err error) {
	ctx := cmd.Context()
	o, err := f.options(cmd.InOrStdin())
	if err != nil {
		return err
	}
	srcRef, err := convert.ParseReference(args[0], f.plainHTTP)
	if err != nil {
		return err
	}
	ref, err := f.target(srcRef, args)
	if err != nil {
		return err
	}
	if ref.String() == srcRef.String() {
		return usagef("%s: source and target are the same; the ordinary image would lose its tag", ref)
	}
	show, err := newProgress(f.progress, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer show.close()
	o.Progress = show.event
	if f.dict != "" {
		d, end, err := f.dictionary(ctx, f.dict)
		if err != nil {
			return err
		}
		defer end()
		o.Dictionary = d
	}
	src, err := convert.OpenSource(ctx, srcRef, f.io(f.jobs))
	if err != nil {
		return err
	}
	defer src.Close()
	t, err := openTarget(ctx, ref, f.io(f.jobs))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	name := ""
	if srcRef.Kind == convert.KindRegistry {
		name = srcRef.String()
	}
	start := time.Now()
	res, err := convert.Convert(ctx, src, name, t.Target, o)
	if err != nil {
		return err
	}
	show.close()
	if f.json {
		return printJSON(cmd.OutOrStdout(), res)
	}
	summary(cmd.OutOrStdout(), ref, res, time.Since(start))
	return nil
}

// openedTarget is a target and what it holds open.
type openedTarget struct{ convert.Target }

func openTarget(ctx context.Context, ref convert.Reference, o convert.IOOptions) (*openedTarget, error) {
	t := &openedTarget{convert.Target{Tag: ref.Tag, Repository: ref.Repository()}}
	existing, err := convert.OpenSource(ctx, ref, o)
	switch {
	case err == nil:
		t.Existing = existing
	case !errors.Is(err, convert.ErrNotFound):
		return nil, fmt.Errorf("target: %w", err)
	}
	if t.Sink, err = convert.OpenSink(ctx, ref, o); err != nil {
		t.close()
		return nil, fmt.Errorf("target: %w", err)
	}
	return t, nil
}

func (t *openedTarget) close() error {
	var err error
	if t.Sink != nil {
		err = t.Sink.Close()
	}
	if t.Existing != nil {
		err = errors.Join(err, t.Existing.Close())
	}
	return err
}

func summary(w io.Writer, ref convert.Reference, res *convert.Result, took time.Duration) {
	var in, out, boot int64
	var built, reused int
	for _, p := range res.Platforms {
		boot += p.BootSize
		for _, l := range p.Layers {
			in, out = in+l.SourceSize, out+l.BlobSize
			if l.How == convert.PhaseDone {
				built++
			} else {
				reused++
			}
		}
	}
	fmt.Fprintf(w, "%s@%s\n", ref, res.Digest)
	if res.Already {
		return
	}
	fmt.Fprintf(w, "%d layers converted, %d reused; %s became %s and %s to pull; %.1f s\n",
		built, reused, bytesText(in), bytesText(out), bytesText(boot), took.Seconds())
}
