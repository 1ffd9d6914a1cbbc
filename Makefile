# lighter. `make test` and `make demo` do everything, set-up included; the rest are parts of them.
SHELL := /bin/bash
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export GOFLAGS := -buildvcs=false $(GOFLAGS)
GO ?= go
CACHE ?= $(or $(LIGHTER_TEST_CACHE),$(HOME)/.cache/lighter-test)
FUZZTIME ?= 5m
PKGS = $(shell $(GO) list ./... | grep -v '/integration')
PEERS := $(CACHE)/peers/bin/nydusd

.PHONY: all build buildkitd buildkitd-image plugin setup test test-unit integration fuzz soak bench-pull bench-build demo docker27 peers clean

all: build plugin
build: # the tool, static
	CGO_ENABLED=0 $(GO) build -trimpath -o build/lighter ./cmd/lighter
buildkitd: # BuildKit's daemon with compression=nydus, and its client
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o build/ ./buildkitd github.com/moby/buildkit/cmd/buildctl
buildkitd-image: buildkitd # the same as a container image: docker load -i build/buildkitd-image.tar
	$(GO) run ./buildkitd/image -bin build -o build/buildkitd-image.tar
plugin: # what `docker plugin create NAME build/plugin` takes
	plugin/build.sh build/plugin
setup: # what tests and demo need of the machine; does nothing where all is there
	.ci/setup

test: setup test-unit integration # -count=1: servers and mounts are not cached results
test-unit:
	$(GO) vet ./...
	$(GO) test -timeout 20m $(PKGS)
integration: setup # -p 1: one set of daemons at a time
	$(GO) test -count=1 -p 1 -timeout 60m -v ./integration/...

fuzz: # each target for FUZZTIME
	@set -e; for p in $(PKGS); do for f in $$($(GO) test -list '^Fuzz' $$p | grep ^Fuzz || true); do \
	  echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; done; done

soak: setup # the long runs: 500 kills of the worker, 10,000 mounts
	LIGHTER_SOAK=1 $(GO) test -count=1 -p 1 -timeout 60m -v -run 'Soak|TestWorkerKill' ./lazyfs/... ./integration/...

bench-pull: setup # lazy and classic pull and run over a simulated link; the figures of docs/bench
	LIGHTER_BENCH=1 $(GO) test -count=1 -timeout 30m -v -run 'TestPullAndRun|TestOrdinary' ./integration
bench-build: setup # a build's export: gzip, zstd, ours and upstream's nydus; the figures of docs/bench
	LIGHTER_BENCH=1 $(GO) test -count=1 -timeout 30m -v -run TestBuildSpeed ./integration

demo: setup # classic pull and run beside lazy pull and run; leaves nothing behind
	$(GO) run ./integration/demo

docker27: $(CACHE)/dockerd-27.5.1 # the newest dockerd with graph driver plugins, for the tests

$(CACHE)/dockerd-27.5.1: integration/tools/docker27/go.mod
	mkdir -p $(CACHE)
	cd integration/tools/docker27 && CGO_ENABLED=0 $(GO) build -trimpath -o $@.part \
	  -ldflags '-s -w -X github.com/docker/docker/dockerversion.Version=27.5.1' github.com/docker/docker/cmd/dockerd
	mv $@.part $@

peers: $(PEERS) # the real nydus-image and nydusd, which tests then compare with (6 minutes, needs cargo)

$(PEERS):
	cargo install nydus-rs --version 2.2.0 --locked --root $(CACHE)/peers

clean:; rm -rf build
