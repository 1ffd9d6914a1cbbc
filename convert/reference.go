// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Kind says where a Reference points.
type Kind int

// The places an image can lie.
const (
	KindRegistry      Kind = iota // [registry/]repository[:tag][@digest]
	KindLayout                    // oci:DIR[:TAG][@DIGEST]
	KindOCIArchive                // oci-archive:FILE[:TAG][@DIGEST]
	KindDockerArchive             // docker-archive:FILE[:NAME], never written
)

// ErrReference is wrapped by every error of ParseReference: the text is no name of an image.
var ErrReference = errors.New("not an image name")

// Reference is the parsed name of an image. Values are immutable.
type Reference struct {
	Kind   Kind
	Path   string         // directory or file; "" in a registry
	Tag    string         // "" when none was given
	Digest v1.Hash        // zero when none was given
	Name   name.Reference // set in a registry only
}

var schemes = map[string]Kind{"oci": KindLayout, "oci-archive": KindOCIArchive, "docker-archive": KindDockerArchive}

// ParseReference parses the name of an image as a user types it. Paths end at
// their first colon, as with skopeo. plainHTTP permits the registry to be
// spoken to without TLS; loopback registries always may be.
func ParseReference(s string, plainHTTP bool) (Reference, error) {
	scheme, rest, found := strings.Cut(s, ":")
	if kind, ok := schemes[scheme]; ok && found {
		return parsePath(s, kind, rest)
	}
	var o []name.Option
	if plainHTTP {
		o = append(o, name.Insecure)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(s, "docker://"), o...)
	if err != nil {
		return Reference{}, fmt.Errorf("%w: %q: %v", ErrReference, s, err)
	}
	r := Reference{Kind: KindRegistry, Name: ref}
	switch n := ref.(type) {
	case name.Tag:
		r.Tag = n.TagStr()
	case name.Digest:
		if r.Digest, err = v1.NewHash(n.DigestStr()); err != nil {
			return Reference{}, fmt.Errorf("%w: %q: %v", ErrReference, s, err)
		}
		// repo:tag@digest: the digest decides what is read, the tag what a default target is called.
		if before, _, _ := strings.Cut(s, "@"); strings.Contains(before[strings.LastIndexByte(before, '/')+1:], ":") {
			r.Tag = before[strings.LastIndexByte(before, ':')+1:]
		}
	}
	return r, nil
}

func parsePath(s string, kind Kind, rest string) (Reference, error) {
	r := Reference{Kind: kind}
	if at := strings.LastIndex(rest, "@sha256:"); at >= 0 {
		h, err := v1.NewHash(rest[at+1:])
		if err != nil {
			return Reference{}, fmt.Errorf("%w: %q: %v", ErrReference, s, err)
		}
		r.Digest, rest = h, rest[:at]
	}
	r.Path, r.Tag, _ = strings.Cut(rest, ":")
	if r.Path == "" {
		return Reference{}, fmt.Errorf("%w: %q: the path is missing", ErrReference, s)
	}
	return r, nil
}

// String gives the name in the form ParseReference takes.
func (r Reference) String() string {
	if r.Kind == KindRegistry {
		return r.Name.String()
	}
	s := map[Kind]string{KindLayout: "oci:", KindOCIArchive: "oci-archive:", KindDockerArchive: "docker-archive:"}[r.Kind] + r.Path
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != (v1.Hash{}) {
		s += "@" + r.Digest.String()
	}
	return s
}

// Repository is "host/repository" of an image in a registry, else "".
func (r Reference) Repository() string {
	if r.Kind != KindRegistry {
		return ""
	}
	return r.Name.Context().Name()
}

// WithTag is the same place under another tag, without a digest.
func (r Reference) WithTag(tag string) (Reference, error) {
	r.Tag, r.Digest = tag, v1.Hash{}
	if r.Kind == KindRegistry {
		t, err := name.NewTag(r.Name.Context().Name() + ":" + tag)
		if err != nil {
			return Reference{}, fmt.Errorf("%w: tag %q: %v", ErrReference, tag, err)
		}
		t.Repository = r.Name.Context() // keeps the permission for plain HTTP
		r.Name = t
	}
	return r, nil
}
