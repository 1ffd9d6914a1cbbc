// SPDX-License-Identifier: Apache-2.0

package exporter

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"lighter/convert"
	"lighter/format"
)

// Compression is the value of the attribute "compression" that this package serves.
const Compression = "nydus"

// prefix begins the names of our own attributes.
const prefix = "nydus-"

// options is what the attributes of one output ask for.
type options struct {
	build    format.BuildOptions
	index    convert.IndexMode
	prefetch []string
	rewrite  bool // clamp the files' times to the source date epoch

	names                       []string
	push, pushByDigest, store   bool
	insecure                    bool
	nameCanonical, danglingOnly bool
	danglingPrefix              string
}

// attribute is one name in the table of attributes.
type attribute struct {
	set  func(o *options, value string) error
	also bool // BuildKit's exporter must see it as well
}

// attributes that compression=nydus gives a meaning of its own. Those in
// naming come on top where the index is written here.
var attributes = map[string]attribute{
	"force-compression":     {set: boolean(func(*options, bool) {})}, // all layers are converted anyhow
	"compression-level":     {set: level},
	"rewrite-timestamp":     {set: boolean(func(o *options, v bool) { o.rewrite = v })},
	"oci-mediatypes":        {set: mustBe(true, "Nydus layers have OCI media types only"), also: true},
	"unpack":                {set: mustBe(false, "a Nydus image is run without unpacking it")},
	prefix + "compressor":   {set: compressor},
	prefix + "chunk-size":   {set: chunkSize},
	prefix + "fs-version":   {set: fsVersion},
	prefix + "chunk-dict":   {set: chunkDict},
	prefix + "prefetch":     {set: prefetch},
	prefix + "index":        {set: index},
	"prefer-nondist-layers": {set: mustBe(false, "Nydus layers are distributable")},
}

var naming = map[string]attribute{
	"name":                    {set: func(o *options, v string) error { o.names = splitNames(v); return nil }, also: true},
	"push":                    {set: boolean(func(o *options, v bool) { o.push = v })},
	"push-by-digest":          {set: boolean(func(o *options, v bool) { o.pushByDigest = v })},
	"store":                   {set: boolean(func(o *options, v bool) { o.store = v })},
	"registry.insecure":       {set: boolean(func(o *options, v bool) { o.insecure = v })},
	"name-canonical":          {set: boolean(func(o *options, v bool) { o.nameCanonical = v })},
	"dangling-name-prefix":    {set: func(o *options, v string) error { o.danglingPrefix = v; return nil }},
	"danging-name-empty-only": {set: boolean(func(o *options, v bool) { o.danglingOnly = v })}, // as BuildKit spells it
}

// parseAttrs takes what is ours out of an output's attributes and checks it.
// rest is for BuildKit's exporter of that kind.
func parseAttrs(attrs map[string]string, image bool) (o *options, rest map[string]string, err error) {
	o = &options{index: convert.IndexLazy, store: true}
	if !image {
		o.index = convert.IndexNone
	}
	rest = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		value := attrs[name]
		a, ok := attributes[name]
		switch {
		case name == "compression":
			continue
		case !ok && strings.HasPrefix(name, prefix):
			return nil, nil, fmt.Errorf("exporter option %q is unknown; there are %s", name, ours())
		case !ok:
			rest[name] = value
			continue
		}
		if err := a.set(o, value); err != nil {
			return nil, nil, fmt.Errorf("exporter option %s=%s: %w", name, value, err)
		}
		if a.also {
			rest[name] = value
		}
	}
	if o.index != convert.IndexNone && !image {
		return nil, nil, fmt.Errorf("exporter option %sindex=%s: archives hold the full manifest alone; push with type=image for the index", prefix, o.index)
	}
	// An empty layer tells whether the options go together.
	if _, err := format.BuildLayer(io.Discard, strings.NewReader(""), o.build); err != nil {
		return nil, nil, fmt.Errorf("exporter options with compression=%s: %w", Compression, err)
	}
	rest["oci-mediatypes"] = "true"
	if v, ok := rest["name"]; ok {
		o.names = splitNames(v)
	}
	if o.index != convert.IndexNone {
		rest, err = o.takeNaming(rest)
	}
	return o, rest, err
}

// takeNaming takes out what names and pushes the result. BuildKit's exporter
// learns the name, which attestations are about, but enters it nowhere.
func (o *options) takeNaming(attrs map[string]string) (map[string]string, error) {
	rest := map[string]string{}
	for name, value := range attrs {
		a, ok := naming[name]
		if !ok || a.also {
			rest[name] = value
		}
		if !ok {
			continue
		}
		if err := a.set(o, value); err != nil {
			return nil, fmt.Errorf("exporter option %s=%s: %w", name, value, err)
		}
	}
	rest["store"] = "false"
	return rest, nil
}

func splitNames(v string) []string {
	if v == "" {
		return nil
	}
	return strings.Split(v, ",")
}

func ours() string {
	var names []string
	for name := range attributes {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// boolean takes "" for true, as BuildKit does.
func boolean(set func(*options, bool)) func(*options, string) error {
	return func(o *options, value string) error {
		b := true
		if value != "" {
			var err error
			if b, err = strconv.ParseBool(value); err != nil {
				return fmt.Errorf("is neither true nor false")
			}
		}
		set(o, b)
		return nil
	}
}

func mustBe(want bool, why string) func(*options, string) error {
	return func(o *options, value string) error {
		got := want
		if err := boolean(func(_ *options, b bool) { got = b })(o, value); err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("conflicts with compression=%s: %s", Compression, why)
		}
		return nil
	}
}

func level(o *options, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("is no whole number")
	}
	o.build.Level = n
	return nil
}

var compressors = []format.Compressor{format.Zstd, format.LZ4Block, format.Gzip, format.None}

func compressor(o *options, value string) error {
	for _, c := range compressors {
		if c.String() == value {
			o.build.Compressor = &c
			return nil
		}
	}
	return fmt.Errorf("is none of %v", compressors)
}

// chunkSize takes bytes, decimal or hexadecimal with 0x, as the reference tools do.
func chunkSize(o *options, value string) error {
	n, err := strconv.ParseUint(value, 0, 32)
	if err != nil || n < 4096 || n > 16<<20 || n&(n-1) != 0 {
		return fmt.Errorf("is no power of two from 4096 to %d", 16<<20)
	}
	o.build.ChunkSize = uint32(n)
	return nil
}

func fsVersion(o *options, value string) error {
	switch value {
	case "6", "5":
		o.build.Version = int(value[0] - '0')
		return nil
	}
	return fmt.Errorf("is no version of the file system; there are 6 and 5")
}

func chunkDict(*options, string) error {
	return fmt.Errorf("%w: chunk dictionaries", format.ErrUnsupported)
}

// prefetch takes absolute paths with colons between.
func prefetch(o *options, value string) error {
	for p := range strings.SplitSeq(value, ":") {
		if !strings.HasPrefix(p, "/") {
			return fmt.Errorf("path %q does not begin with a slash", p)
		}
		o.prefetch = append(o.prefetch, p)
	}
	return nil
}

func index(o *options, value string) error {
	switch m := convert.IndexMode(value); m {
	case convert.IndexLazy, convert.IndexMerged, convert.IndexNone:
		o.index = m
		return nil
	}
	return fmt.Errorf("is none of %s, %s, %s", convert.IndexLazy, convert.IndexMerged, convert.IndexNone)
}
