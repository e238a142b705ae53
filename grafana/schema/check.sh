#!/usr/bin/env bash
# Checks each dashboard against the type that Grafana publishes in @grafana/schema.
set -euo pipefail
cd "$(dirname "$0")"

command -v npm >/dev/null || {
  echo "grafana-check needs npm, which is not here: the types of the dashboards were not checked" >&2
  exit 1
}
npm ci --silent --no-audit --no-fund --ignore-scripts

rm -rf build
mkdir build
for f in ../dashboards/*.json; do
  {
    echo "import type { Dashboard } from '@grafana/schema';"
    echo "import type { Written } from '../json.js';"
    echo "export const d: Written<Dashboard> ="
    cat "$f"
  } >"build/$(basename "$f" .json).ts"
done
npx --no-install tsc --project .
echo "$(ls build | wc -l) dashboards have the types of @grafana/schema"
