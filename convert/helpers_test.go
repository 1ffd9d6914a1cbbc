// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"lighter/format/formattest"
)

// goldenLayout names an image of the golden layout.
func goldenLayout(t testing.TB, tag string) string {
	return "oci:" + filepath.Join(formattest.Golden(t), "oci") + ":" + tag
}

func open(t testing.TB, name string) (Reference, Source) {
	t.Helper()
	ref := parse(t, name)
	s, err := OpenSource(context.Background(), ref, IOOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return ref, s
}

func parse(t testing.TB, name string) Reference {
	t.Helper()
	ref, err := ParseReference(name, false)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// tryConvert converts src into target as the command does.
func tryConvert(t testing.TB, ctx context.Context, src, target string, o Options) (res *Result, err error) {
	t.Helper()
	_, s := open(t, src)
	ref := parse(t, target)
	tg := Target{Tag: ref.Tag, Repository: ref.Repository()}
	if existing, err := OpenSource(ctx, ref, IOOptions{}); err == nil {
		tg.Existing = existing
		defer existing.Close()
	}
	if tg.Sink, err = OpenSink(ctx, ref, IOOptions{WorkDir: o.WorkDir}); err != nil {
		t.Fatal(err)
	}
	res, err = Convert(ctx, s, "", tg, o)
	if cerr := tg.Sink.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	return res, err
}

func convertTo(t testing.TB, src, target string, o Options) *Result {
	t.Helper()
	res, err := tryConvert(t, context.Background(), src, target, o)
	if err != nil {
		t.Fatalf("convert %s to %s: %v", src, target, err)
	}
	return res
}

// mustCheck fails the test unless the image is without fault.
func mustCheck(t testing.TB, name string) *CheckReport {
	t.Helper()
	_, s := open(t, name)
	rep, err := Check(context.Background(), s, CheckOptions{})
	if err != nil {
		t.Fatalf("check %s: %v", name, err)
	}
	for _, p := range rep.Problems {
		t.Errorf("check %s: %s", name, p)
	}
	return rep
}

// mustList fails the test unless the image reads as the golden listing.
func mustList(t testing.TB, name string) {
	t.Helper()
	want, err := formattest.ReadListing(filepath.Join(formattest.Golden(t), "oci.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	_, s := open(t, name)
	im, err := OpenImage(ctx, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := im.Open(ctx, t.TempDir())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer o.Close()
	got, err := formattest.ListBootstrap(o.Bootstrap, o.OpenBlob)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if d := formattest.Diff(want, got); d != "" {
		t.Errorf("%s reads otherwise:\n%s", name, d)
	}
}

// testRegistry is a registry in this process; wrap may spoil its answers. It gives "host:port".
func testRegistry(t testing.TB, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// tool runs a program of the machine and fails the test without it.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// files lists what lies below dir.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, p)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return out
}
