#!/usr/bin/env bash
# Packs the managed plugin: DIR/config.json and DIR/rootfs, what `docker plugin create NAME DIR` takes.
# The root file system is one static binary, the certificates of public CAs, and empty directories.
set -euo pipefail
dir=${1:?usage: plugin/build.sh DIR}
cd "$(dirname "$0")/.."
certs=/etc/ssl/certs/ca-certificates.crt
[ -s "$certs" ] || { echo "plugin/build.sh: $certs is missing: install ca-certificates" >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$dir/rootfs"/{etc/ssl/certs,run/docker/plugins,run/lighter,var/lib/lighter,proc,sys,dev}
install -d -m 1777 "$dir/rootfs/tmp"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}" -o "$dir/rootfs/lighter-plugin" ./plugin
cp "$certs" "$dir/rootfs/etc/ssl/certs/"
cp config.json "$dir/"
