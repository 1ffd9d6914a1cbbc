// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// IOOptions are shared by all places of one run. The zero value is ready.
type IOOptions struct {
	PlainHTTP bool              // permit registries without TLS; loopback ones always are
	Keychain  authn.Keychain    // nil: Docker's credential files and helpers
	Transport http.RoundTripper // nil: one of [NewTransport]
	WorkDir   string            // for archives in the making; "": the system's temporary directory
	Jobs      int               // parallel uploads; 0: 4

	// IdleTimeout is the longest pause within a download; 0: one minute. A
	// download that pauses longer is taken up again.
	IdleTimeout time.Duration
}

// OpenSource opens the place that r names for reading.
func OpenSource(ctx context.Context, r Reference, o IOOptions) (Source, error) {
	switch r.Kind {
	case KindLayout:
		s, err := openLayout(r, dirTree(r.Path), nil)
		return sourceOr(s, err)
	case KindOCIArchive:
		t, err := openTarTree(r.Path)
		if err != nil {
			return nil, err
		}
		s, err := openLayout(r, t, t.f)
		if err != nil {
			t.f.Close()
			return nil, err
		}
		return s, nil
	case KindDockerArchive:
		s, err := openDockerArchive(ctx, r)
		return sourceOr(s, err)
	default:
		s, err := newRegistrySource(r, o)
		return sourceOr(s, err)
	}
}

// sourceOr keeps a nil pointer from becoming a Source that is not nil.
func sourceOr(s Source, err error) (Source, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

func sinkOr(s Sink, err error) (Sink, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// OpenSink opens the place that r names for writing. Nothing is visible there
// under r's tag before the sink's Commit.
func OpenSink(_ context.Context, r Reference, o IOOptions) (Sink, error) {
	switch r.Kind {
	case KindLayout:
		s, err := newLayoutSink(r.Path)
		return sinkOr(s, err)
	case KindOCIArchive:
		s, err := newArchiveSink(r.Path, o.WorkDir)
		return sinkOr(s, err)
	case KindDockerArchive:
		return nil, fmt.Errorf("%w: %s: docker archives can only be read; write oci-archive:FILE instead", ErrReference, r)
	default:
		s, err := newRegistrySink(r, o)
		return sinkOr(s, err)
	}
}
