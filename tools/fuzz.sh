#!/usr/bin/env bash
# Runs every fuzz target of the module for a while: tools/fuzz.sh 10s
set -euo pipefail
fuzztime=${1:-10s}
status=0
for dir in $(grep -rl --include='*_test.go' --exclude-dir=integration --exclude-dir=benchmarks '^func Fuzz' . | xargs -n1 dirname | sort -u); do
  for target in $(grep -rhoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | sed 's/^func //' | sort -u); do
    echo "== $dir $target"
    go test -run '^$' -fuzz "^${target}\$" -fuzztime "$fuzztime" "$dir" || status=1
  done
done
exit $status
