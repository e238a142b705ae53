#!/usr/bin/env bash
# Checks each dashboard against the types that Grafana publishes in @grafana/schema.
set -euo pipefail
cd "$(dirname "$0")"

command -v npm >/dev/null || {
  echo "NOT CHECKED: the types of the dashboards. grafana-check needs npm, which is not here." >&2
  exit 0 # make test goes on where there is no npm
}
[[ node_modules/.package-lock.json -nt package-lock.json ]] || npm ci --no-audit --no-fund --ignore-scripts

rm -rf build
mkdir build
for f in ../dashboards/*.json; do
  name=$(basename "$f" .json)
  {
    echo "import type { KnownPanels, WrittenDashboard } from '../dashboard.js';"
    echo "export const dashboard: WrittenDashboard ="
    cat "$f"
    echo ";"
    echo "export const panels: KnownPanels ="
    node -p 'JSON.stringify(JSON.parse(require("fs").readFileSync(process.argv[1])).panels, null, 2)' "$f"
  } >"build/$name.ts"
done
npx --no-install tsc --project .
echo "$(find build -name '*.ts' | wc -l) dashboards have the types of @grafana/schema"
