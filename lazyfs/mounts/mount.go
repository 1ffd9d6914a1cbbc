// SPDX-License-Identifier: Apache-2.0

package mounts

import (
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/hanwen/go-fuse/v2/fuse"

	"lighter/lazyfs"
	"lighter/lazyfs/fusefs"
	"lighter/lazyfs/keeper"
)

// mount is one mount being served. Its fields do not change.
type mount struct {
	kept  *keeper.Mount
	spec  Spec
	im    *lazyfs.Image // nil if it could not be opened again
	err   error         // why not
	ended chan struct{} // closed when the connection has ended and all is released
}

// fs is what the mount shows.
func (mt *mount) fs(log *slog.Logger) fuse.RawFileSystem {
	if mt.im == nil {
		return fusefs.Broken()
	}
	return fusefs.New(mt.im, fusefs.Options{Logger: log.With("id", mt.kept.ID)})
}

func (mt *mount) close() error {
	if mt.im == nil {
		return nil
	}
	return mt.im.Close()
}

// matches reports whether mounting spec on target would change nothing. It is
// an error if something else is mounted under the same id.
func (mt *mount) matches(spec Spec, target string) (bool, error) {
	select {
	case <-mt.ended:
		return false, nil
	default:
	}
	if mt.kept.Target != target || mt.spec.Bootstrap != spec.Bootstrap || mt.spec.Digest != spec.Digest {
		return false, fmt.Errorf("%s is mounted on %s: %w", mt.spec.Bootstrap, mt.kept.Target, fs.ErrExist)
	}
	return mt.im != nil, nil
}

func (mt *mount) status() Status {
	s := Status{ID: mt.kept.ID, Target: mt.kept.Target, Spec: mt.spec}
	if mt.im != nil {
		s.Complete = mt.im.Complete()
	}
	if mt.err != nil {
		s.Error = mt.err.Error()
	}
	return s
}
