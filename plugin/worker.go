// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os/signal"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/sys/unix"

	"lighter/lazyfs"
	"lighter/lazyfs/backend"
	"lighter/lazyfs/keeper"
	"lighter/lazyfs/mounts"
)

// worker is everything that serves images, in the order in which it is made and the reverse of that in which it is closed.
type worker struct {
	started  time.Time
	registry *backend.Registry
	store    *lazyfs.Store
	mounts   *mounts.Manager
}

// runWorker takes over what the keeper keeps, and serves images until SIGTERM, with the driver as its child.
func runWorker(s settings, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	k, err := keeper.Connect()
	if err != nil {
		return err
	}
	w, err := newWorker(s, k, log)
	if err != nil {
		return err
	}
	mounting, err := listenAnew(mounterSocket)
	if err != nil {
		return errors.Join(err, w.close(ctx))
	}
	failed := make(chan error, 3)
	servers := []*http.Server{{Handler: mounterHandler(w.mounts)}, {Handler: w.control()}}
	go func() { failed <- servers[0].Serve(mounting) }()
	if control, err := listenAnew(controlSocket); err != nil {
		log.Warn("no control socket", "error", err) // the images matter more
	} else {
		go func() { failed <- servers[1].Serve(control) }()
	}
	driving, stopDriver := context.WithCancel(ctx)
	driver := make(chan struct{})
	go func() {
		defer close(driver)
		failed <- keepDriver(driving, k.Listener(pluginSocket), log)
	}()
	log.Info("serving images", "version", version, "kept mounts", len(w.mounts.List()))

	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-k.Done():
		err = keeper.ErrGone
	}
	stopDriver()
	<-driver // it ends in time, or is killed
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout-driverStop)
	defer cancel()
	for _, srv := range servers {
		srv.Shutdown(ctx)
	}
	return errors.Join(err, w.close(ctx), k.Close())
}

func newWorker(s settings, k *keeper.Client, log *slog.Logger) (*worker, error) {
	w := &worker{started: time.Now()}
	keychain := backend.NewKeychain(dockerConfigFile)
	if s.dockerConfig != "" {
		given, err := backend.NewContentKeychain(s.dockerConfig)
		if err != nil {
			return nil, fmt.Errorf("LIGHTER_DOCKER_CONFIG: %w", err)
		}
		keychain = authn.NewMultiKeychain(given, keychain)
	}
	w.registry = backend.NewRegistry(backend.RegistryOptions{Keychain: keychain, PlainHTTP: s.usesPlainHTTP, CertsDir: dockerEtcDir + "/certs.d", Logger: log})
	// The kernel asks twice for what does not come: when it reads ahead, and for the page itself.
	store, err := lazyfs.NewStore(cacheDir, lazyfs.StoreOptions{ReadTimeout: s.readTimeout / 2, CacheLimit: s.cacheLimit, Lock: k.Listener(cacheLock), Logger: log})
	if err != nil {
		return nil, err
	}
	w.store = store
	if w.mounts, err = mounts.New(mounts.Options{Store: store, Opener: w.opener, Keeper: k, Logger: log}); err != nil {
		return nil, errors.Join(err, w.close(context.Background()))
	}
	return w, nil
}

// opener finds the blobs of a mount: whole ones on disk first, then the repositories in their order.
func (w *worker) opener(spec mounts.Spec) lazyfs.Opener {
	var all []backend.Opener
	for _, dir := range spec.BlobDirs {
		all = append(all, backend.NewDir(dir))
	}
	for _, name := range spec.Repositories {
		all = append(all, w.registry.Repository(name))
	}
	return backend.Chain(all...)
}

// close ends what newWorker has made so far. Mounts that somebody still uses are served until the process ends.
func (w *worker) close(ctx context.Context) error {
	var errs []error
	if w.mounts != nil {
		errs = append(errs, w.mounts.Close(ctx))
	}
	if w.store != nil {
		errs = append(errs, w.store.Close())
	}
	w.registry.Close()
	return errors.Join(errs...)
}
