#!/usr/bin/env bash
# Puts prometheus, promtool, alertmanager and amtool into a directory: tools/prometheus.sh DIR
# Debian's packages take seconds, and need no root: they are unpacked, not installed. Where there is no Debian, the same
# programs are built, which takes ten minutes.
set -euo pipefail
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
PROMETHEUS_VERSION=$(sed -n 's/^PROMETHEUS_VERSION *:= *//p' "$here/versions.mk")
ALERTMANAGER_VERSION=$(sed -n 's/^ALERTMANAGER_VERSION *:= *//p' "$here/versions.mk")
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

from_debian() {
  command -v apt-get dpkg-deb >/dev/null || return 1
  cd "$tmp"
  apt-get download prometheus prometheus-alertmanager >/dev/null 2>&1 ||
    { apt-get update >/dev/null 2>&1 && apt-get download prometheus prometheus-alertmanager >/dev/null; } || return 1
  for p in *.deb; do dpkg-deb -x "$p" root; done
  install root/usr/bin/prometheus root/usr/bin/promtool "$bin/"
  install root/usr/bin/prometheus-alertmanager "$bin/alertmanager"
  install root/usr/bin/amtool "$bin/"
  "$bin/prometheus" --version >/dev/null 2>&1
}

(from_debian) && exit
export GOBIN=$bin GOFLAGS=
go install -tags remove_all_sd \
  "github.com/prometheus/prometheus/cmd/prometheus@$PROMETHEUS_VERSION" \
  "github.com/prometheus/prometheus/cmd/promtool@$PROMETHEUS_VERSION"
go install \
  "github.com/prometheus/alertmanager/cmd/alertmanager@$ALERTMANAGER_VERSION" \
  "github.com/prometheus/alertmanager/cmd/amtool@$ALERTMANAGER_VERSION"
