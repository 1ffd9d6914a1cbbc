// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"strings"
	"testing"
)

func TestParseReference(t *testing.T) {
	d := "sha256:" + strings.Repeat("a", 64)
	for _, c := range []struct {
		in   string
		kind Kind
		path string
		tag  string
		repo string
		out  string
	}{
		{"oci:/a/b:tag", KindLayout, "/a/b", "tag", "", "oci:/a/b:tag"},
		{"oci:b", KindLayout, "b", "", "", "oci:b"},
		{"oci:b:docker.io/library/x:1", KindLayout, "b", "docker.io/library/x:1", "", "oci:b:docker.io/library/x:1"},
		{"oci:b@" + d, KindLayout, "b", "", "", "oci:b@" + d},
		{"oci-archive:x.tar:1", KindOCIArchive, "x.tar", "1", "", "oci-archive:x.tar:1"},
		{"docker-archive:x.tar:app:1", KindDockerArchive, "x.tar", "app:1", "", "docker-archive:x.tar:app:1"},
		{"127.0.0.1:5000/a/b", KindRegistry, "", "latest", "127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b"},
		{"reg.example/a:1", KindRegistry, "", "1", "reg.example/a", "reg.example/a:1"},
		{"docker://reg.example/a:1", KindRegistry, "", "1", "reg.example/a", "reg.example/a:1"},
		{"reg.example:5000/a:1@" + d, KindRegistry, "", "1", "reg.example:5000/a", "reg.example:5000/a:1@" + d},
		{"reg.example:5000/a@" + d, KindRegistry, "", "", "reg.example:5000/a", "reg.example:5000/a@" + d},
	} {
		r, err := ParseReference(c.in, false)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if r.Kind != c.kind || r.Path != c.path || r.Tag != c.tag || r.Repository() != c.repo || !strings.HasSuffix(r.String(), c.out) {
			t.Errorf("%s: %+v, repository %q, string %q", c.in, r, r.Repository(), r.String())
		}
	}
	for _, in := range []string{"", "oci:", "oci-archive::tag", "UPPER/case", "a b", "x@sha256:short", "oci:d@sha256:zz", "reg.example/a:b:c"} {
		if r, err := ParseReference(in, false); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %+v, %v", in, r, err)
		}
	}
}

func TestWithTag(t *testing.T) {
	for in, want := range map[string]string{
		"reg.example/a:1": "reg.example/a:1-nydus",
		"reg.example/a:1@sha256:" + strings.Repeat("a", 64): "reg.example/a:1-nydus",
		"oci:dir:1": "oci:dir:1-nydus",
	} {
		r, err := ParseReference(in, false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.WithTag(r.Tag + "-nydus")
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	r, err := ParseReference("127.0.0.2:1/a:1", true)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.WithTag("2"); err != nil || got.Name.Context().Scheme() != "http" {
		t.Errorf("the permission for plain http is lost: %v, %v", got, err)
	}
}
