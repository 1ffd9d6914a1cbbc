// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"time"
)

// Options configures New. Only Root and Mounter are required.
type Options struct {
	// Root is the directory that holds everything the driver keeps. It must lie on a file system that overlayfs
	// accepts as upper directory, and its path must hold neither ':' nor ',' nor '\', which overlayfs gives a meaning.
	Root string
	// Mounter shows lazy layers; see Mounter.
	Mounter Mounter
	// DockerImageDir is Docker's <data-root>/image, read only to learn from which repository a layer came. "" means
	// that it is not there.
	DockerImageDir string
	// ExtraStatus, when set, adds lines to what `docker info` shows. It must not block.
	ExtraStatus func() [][2]string
	// Linger is how long a lazy layer stays mounted after its last user has gone: 0 means 3 s, negative not at all.
	// It saves the second mount of `docker run`, which gets and puts a layer on its way to the container's.
	Linger time.Duration
	// MountTimeout bounds one call of the Mounter: 0 means 2 min.
	MountTimeout time.Duration
	// Logger gets what no caller is told. nil means none.
	Logger *slog.Logger
}

func (o *Options) check() error {
	if o.Root == "" || !filepath.IsAbs(o.Root) {
		return fmt.Errorf("graphdriver: root %q is not an absolute path", o.Root)
	}
	for _, c := range o.Root {
		if c == ':' || c == ',' || c == '\\' {
			return fmt.Errorf("graphdriver: root %q holds %q, which overlayfs would take for a separator", o.Root, c)
		}
	}
	if o.Mounter == nil {
		return errors.New("graphdriver: no mounter given")
	}
	if o.Linger == 0 {
		o.Linger = 3 * time.Second
	}
	if o.MountTimeout == 0 {
		o.MountTimeout = 2 * time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// CreateOptions are what Docker may say when it creates a layer.
type CreateOptions struct {
	MountLabel string            // SELinux label
	StorageOpt map[string]string // "size": quota of a container
}

// idPattern admits what Docker and BuildKit use as layer ids, and nothing that means something in a path.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// checkID refuses an id that could leave the layers' directory or meets a name that Docker's overlay2 uses itself.
func checkID(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("layer id %.140q is not valid: want up to 128 letters, digits, '_', '.' and '-', beginning with a letter or digit", id)
	}
	if id == "l" {
		return errors.New(`layer id "l" is reserved for overlay2's links`)
	}
	return nil
}

// checkParent is checkID for a parent, which may be "".
func checkParent(id string) error {
	if id == "" {
		return nil
	}
	if err := checkID(id); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	return nil
}
