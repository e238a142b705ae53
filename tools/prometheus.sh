#!/usr/bin/env bash
# Puts prometheus and promtool into a directory: tools/prometheus.sh DIR
# Debian's package takes seconds, and needs no root: it is unpacked, not installed. Where there is no Debian, the same
# programs are built, which takes ten minutes.
set -euo pipefail
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
PROMETHEUS_VERSION=$(sed -n 's/^PROMETHEUS_VERSION *:= *//p' "$here/versions.mk")
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

from_debian() {
  command -v apt-get dpkg-deb >/dev/null || return 1
  cd "$tmp"
  apt-get download prometheus >/dev/null 2>&1 ||
    { apt-get update >/dev/null 2>&1 && apt-get download prometheus >/dev/null; } || return 1
  for p in *.deb; do dpkg-deb -x "$p" root; done
  install root/usr/bin/prometheus root/usr/bin/promtool "$bin/"
  "$bin/prometheus" --version >/dev/null 2>&1
}

(from_debian) && exit
export GOBIN=$bin GOFLAGS=
go install -tags remove_all_sd \
  "github.com/prometheus/prometheus/cmd/prometheus@$PROMETHEUS_VERSION" \
  "github.com/prometheus/prometheus/cmd/promtool@$PROMETHEUS_VERSION"
