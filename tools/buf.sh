#!/usr/bin/env bash
# Puts buf into a directory: tools/buf.sh DIR
# Its authors publish the program on npm, where it comes in seconds. Where there is no npm, or no program for this machine,
# it is built, which takes minutes.
set -euo pipefail
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
BUF_VERSION=$(sed -n 's/^BUF_VERSION *:= *//p' "$here/versions.mk")
mkdir -p "$bin"
bin=$(cd "$bin" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

from_npm() {
  command -v npm >/dev/null || return 1
  cd "$tmp"
  npm pack --silent "@bufbuild/buf-$(platform)@${BUF_VERSION#v}" >/dev/null 2>&1 || return 1
  tar -xzf ./*.tgz && install package/bin/buf "$bin/" && [ "$("$bin/buf" --version)" = "${BUF_VERSION#v}" ]
}

# The names that the packages have: those of node, but for aarch64.
platform() { node -p 'process.platform + "-" + (process.platform == "linux" && process.arch == "arm64" ? "aarch64" : process.arch)'; }

(from_npm) && exit
GOBIN=$bin GOFLAGS= go install "github.com/bufbuild/buf/cmd/buf@$BUF_VERSION"
