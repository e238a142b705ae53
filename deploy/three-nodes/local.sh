#!/usr/bin/env bash
# Runs the three configurations beside this file as three processes on this
# machine: addresses become 127.0.0.1 with a port of their own for each node, and
# the object store becomes a directory. Ctrl-C stops all.
# Usage: local.sh [DIRECTORY], default ./data/three-nodes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${STREAMHOUSE:-$here/../../bin/streamhouse}
[ -x "$bin" ] || { echo "$bin is missing: run make build" >&2; exit 1; }
mkdir -p "${1:-./data/three-nodes}"
dir=$(cd "${1:-./data/three-nodes}" && pwd)

# Flags are stronger than the file.
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait' EXIT
for i in 1 2 3; do
  others=$(for j in 1 2 3; do [ "$j" = "$i" ] || printf '127.0.0.1:%d,' $((7945 + j)); done)
  "$bin" server --config "$here/n$i.yaml" --data-dir "$dir/n$i" --insecure=false \
    --grpc-addr "127.0.0.1:$((50050 + i))" --http-addr "127.0.0.1:$((8079 + i))" \
    --raft-addr "127.0.0.1:$((6999 + i))" --gossip-addr "127.0.0.1:$((7945 + i))" \
    --join "$others" --object-store "file://$dir/objects" 2>>"$dir/n$i.log" &
  pids+=($!)
done
echo "logs are in $dir; Ctrl-C stops all" >&2
echo "export STREAMHOUSE_ADDR=127.0.0.1:50051,127.0.0.1:50052,127.0.0.1:50053"
wait
