// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"fmt"
	"io"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

var errAlreadyExists = cerrdefs.ErrAlreadyExists

// digestSet is sizes in bytes by digest. The zero value is empty.
type digestSet struct {
	mu sync.Mutex
	m  map[digest.Digest]int64
}

func (s *digestSet) add(d ocispecs.Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[digest.Digest]int64{}
	}
	s.m[d.Digest] = d.Size
}

func (s *digestSet) size(d digest.Digest) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.m[d]
	return n, ok
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("is larger than %d bytes", limit)
	}
	return raw, err
}
