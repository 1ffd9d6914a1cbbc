// SPDX-License-Identifier: Apache-2.0

// Command buildkitd is BuildKit's daemon with outputs that take
// compression=nydus. Flags, configuration file, sockets and frontends are those
// of the stock daemon; this program puts BuildKit's packages together and wraps
// the workers, all else is in package exporter.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/appcontext"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/cachedigest"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto"
	"github.com/moby/buildkit/util/resolver/limited"
	"github.com/moby/buildkit/util/stack"
	_ "github.com/moby/buildkit/util/tracing/childprocess"
	"github.com/moby/buildkit/util/tracing/detect"
	_ "github.com/moby/buildkit/util/tracing/detect/jaeger"
	"github.com/moby/buildkit/version"
	"github.com/moby/sys/reexec"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	fscopy "github.com/tonistiigi/fsutil/copy"

	"lighter/exporter/lazybase"
)

// shutdownTimeout bounds the last words of traces and metrics.
const shutdownTimeout = 5 * time.Second

func main() {
	if reexec.Init() || lazybase.Main(os.Args[1:]) {
		return
	}
	err := run(os.Args[1:])
	switch {
	case errors.Is(err, pflag.ErrHelp):
	case err != nil:
		fmt.Fprintf(os.Stderr, "buildkitd: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := newFlags()
	if err := flags.Parse(args); err != nil {
		return err
	}
	setVersion()
	if v, _ := flags.GetBool("version"); v {
		fmt.Println("buildkitd", version.Package, version.Version, version.Revision)
		return nil
	}
	if os.Geteuid() > 0 {
		return errors.New("must be root, or root of a user namespace such as RootlessKit makes")
	}
	// Files of images get the modes they ask for.
	syscall.Umask(0)
	fscopy.UmaskIsZero = true
	apicaps.ExportedProduct = "buildkit"
	stack.SetVersionInfo(version.Version, version.Revision)
	detect.Recorder = detect.NewTraceRecorder()

	s, err := flags.load()
	if err != nil {
		return err
	}
	if err := s.apply(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(appcontext.Context())
	defer cancel(nil)
	if err := os.MkdirAll(s.Root, 0o700); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(s.Root, "buildkitd.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if s.saveCacheDebug {
		db, err := cachedigest.NewDB(filepath.Join(s.Root, "cache-debug.db"))
		if err != nil {
			return err
		}
		cachedigest.SetDefaultDB(db)
		defer db.Close()
	}
	return serve(ctx, s)
}

// setVersion says which BuildKit this is, for clients that ask. The linker may
// have said it already.
func setVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok || !strings.Contains(version.Version, "unknown") {
		return
	}
	for _, m := range info.Deps {
		if m.Path == version.Package {
			version.Version = m.Version
		}
	}
}

// apply sets what BuildKit keeps in package variables.
func (s *settings) apply() error {
	switch s.Log.Format {
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	case "text", "":
		logrus.SetFormatter(&logrus.TextFormatter{FullTimestamp: true})
	default:
		return fmt.Errorf("log format %q is neither text nor json", s.Log.Format)
	}
	level, err := logrus.ParseLevel(s.Log.Level)
	if err != nil {
		return err
	}
	logrus.SetLevel(level)
	if rootless() {
		if err := appdefaults.EnsureUserAddressDir(); err != nil {
			return err
		}
	}
	if s.System == nil {
		return nil
	}
	if v := s.System.PlatformsCacheMaxAge; v != nil {
		archutil.CacheMaxAge = v.Duration
	}
	if v := s.System.MaxRegistryConcurrency; v != nil {
		if *v <= 0 {
			return fmt.Errorf("maxRegistryConcurrency %d is not above zero", *v)
		}
		limited.SetMaxConcurrency(int64(*v))
	}
	return nil
}

// lock makes sure that the state has one daemon.
func lock(path string) (unlock func(), err error) {
	l := flock.New(path)
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !ok {
		return nil, fmt.Errorf("lock %s: another daemon has it", path)
	}
	return func() {
		l.Unlock()
		os.Remove(path)
	}, nil
}
