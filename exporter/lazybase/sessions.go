// SPDX-License-Identifier: Apache-2.0

package lazybase

import (
	"slices"
	"sync"

	"github.com/moby/buildkit/session"
)

// mostSessions is how many clients are asked for the credentials of a
// repository, the latest first.
const mostSessions = 8

// sessions are the clients that lately resolved images, by repository. Reads of
// a mount know of no client; those that wanted the image may be asked.
type sessions struct {
	mu   sync.Mutex
	byIn map[string][]string
}

func (s *sessions) note(repository string, g session.Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range session.AllSessionIDs(g) {
		if s.byIn == nil {
			s.byIn = map[string][]string{}
		}
		ids := slices.DeleteFunc(slices.Clone(s.byIn[repository]), func(i string) bool { return i == id })
		ids = append([]string{id}, ids...)
		s.byIn[repository] = ids[:min(len(ids), mostSessions)]
	}
}

func (s *sessions) group(repository string) session.Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return session.NewGroup(s.byIn[repository]...)
}
