// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/azblob"
	"github.com/moby/buildkit/cache/remotecache/gha"
	"github.com/moby/buildkit/cache/remotecache/inline"
	"github.com/moby/buildkit/cache/remotecache/local"
	"github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/cache/remotecache/s3"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker"
	policy "github.com/moby/policy-helpers"
	bolt "go.etcd.io/bbolt"
	"go.opentelemetry.io/otel/metric"
)

// newController puts workers, frontends and caches together.
func newController(ctx context.Context, s *settings, meters metric.MeterProvider) (*control.Controller, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	traces, err := collectTraces(ctx, s.OTEL.SocketPath)
	if err != nil {
		return nil, err
	}
	workers, err := newWorkers(ctx, s, sessions)
	if err != nil {
		return nil, err
	}
	main, err := workers.GetDefault()
	if err != nil {
		return nil, err
	}
	frontends, err := newFrontends(s, workers)
	if err != nil {
		return nil, err
	}
	cacheStore, err := bboltcachestorage.NewStore(filepath.Join(s.Root, "cache.db"))
	if err != nil {
		return nil, err
	}
	history, err := boltutil.SafeOpen(filepath.Join(s.Root, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	provenance, err := provenanceEnv(s.ProvenanceEnvDir)
	if err != nil {
		return nil, err
	}
	entitlements := s.Entitlements
	if s.CDI.Disabled == nil || !*s.CDI.Disabled {
		entitlements = append(entitlements, "device")
	}
	exports, imports := caches(s, sessions, main)
	return control.NewController(control.Opt{
		SessionManager:            sessions,
		WorkerController:          workers,
		Frontends:                 frontends,
		CacheManager:              solver.NewCacheManager(ctx, "local", cacheStore, worker.NewCacheResultStorage(workers)),
		ResolveCacheExporterFuncs: exports,
		ResolveCacheImporterFuncs: imports,
		Entitlements:              entitlements,
		TraceCollector:            traces,
		MeterProvider:             meters,
		HistoryDB:                 history,
		HistoryConfig:             s.History,
		CacheStore:                cacheStore,
		LeaseManager:              main.LeaseManager(),
		ContentStore:              main.ContentStore(),
		ProxyNetwork:              s.ProxyNetwork,
		GarbageCollect:            main.GarbageCollect,
		GracefulStop:              ctx.Done(),
		ProvenanceEnv:             provenance,
	})
}

func newFrontends(s *settings, workers *worker.Controller) (map[string]frontend.Frontend, error) {
	out := map[string]frontend.Frontend{}
	if e := s.Frontends.Dockerfile.Enabled; e == nil || *e {
		out["dockerfile.v0"] = forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build)
	}
	if e := s.Frontends.Gateway.Enabled; e == nil || *e {
		g, err := gateway.NewGatewayFrontend(workers.Infos(), s.Frontends.Gateway.AllowedRepositories)
		if err != nil {
			return nil, err
		}
		out["gateway.v0"] = g
	}
	return out, nil
}

// caches are the kinds of cache that builds may export to and import from.
func caches(s *settings, sessions *session.Manager, w worker.Worker) (map[string]remotecache.ResolveCacheExporterFunc, map[string]remotecache.ResolveCacheImporterFunc) {
	hosts := resolver.NewRegistryConfig(s.Registries)
	var verifier func() (*policy.Verifier, error)
	if c := s.Cache.GHA; c != nil && c.Verify.Required {
		verifier = sync.OnceValues(func() (*policy.Verifier, error) {
			return policy.NewVerifier(policy.Config{StateDir: filepath.Join(s.Root, "policy")})
		})
	}
	return map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registry.ResolveCacheExporterFunc(sessions, hosts),
			"local":    local.ResolveCacheExporterFunc(sessions),
			"inline":   inline.ResolveCacheExporterFunc(),
			"gha":      gha.ResolveCacheExporterFunc(s.Cache.GHA, verifier),
			"s3":       s3.ResolveCacheExporterFunc(),
			"azblob":   azblob.ResolveCacheExporterFunc(),
		}, map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registry.ResolveCacheImporterFunc(sessions, w.ContentStore(), hosts),
			"local":    local.ResolveCacheImporterFunc(sessions),
			"gha":      gha.ResolveCacheImporterFunc(s.Cache.GHA, verifier),
			"s3":       s3.ResolveCacheImporterFunc(),
			"azblob":   azblob.ResolveCacheImporterFunc(),
		}
}

// provenanceEnv merges the JSON files of a directory, which may be missing.
func provenanceEnv(dir string) (map[string]any, error) {
	if dir == "" {
		dir = filepath.Join(appdefaults.ConfigDir, "provenance.d")
	}
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	env := map[string]any{}
	for _, f := range files {
		if f.IsDir() || !strings.HasSuffix(f.Name(), ".json") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &env); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
	}
	return env, nil
}
