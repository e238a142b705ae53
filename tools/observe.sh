#!/usr/bin/env bash
# Runs on this machine, without containers, a cluster of three nodes and what watches it: Prometheus with the rules of
# deploy/, and Alertmanager. Ctrl-C stops all. Usage: tools/observe.sh [DIRECTORY], default ./data/observe
# Ports: OBSERVE_PROMETHEUS (9090), OBSERVE_ALERTMANAGER (9093), and those of `streamhouse dev`: DEV_ARGS has more
# flags for it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
bin=${BIN:-$root/bin}
prometheus=127.0.0.1:${OBSERVE_PROMETHEUS:-9090}
alertmanager=127.0.0.1:${OBSERVE_ALERTMANAGER:-9093}
for p in streamhouse prometheus alertmanager; do
  [ -x "$bin/$p" ] || { echo "$bin/$p is missing: run make observe" >&2; exit 1; }
done
mkdir -p "${1:-./data/observe}"
dir=$(cd "${1:-./data/observe}" && pwd)

listens() { (exec 3<>"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null; }
for addr in "$prometheus" "$alertmanager"; do
  if listens "$addr"; then echo "$addr is taken: stop what listens there, or set OBSERVE_PROMETHEUS or OBSERVE_ALERTMANAGER" >&2; exit 1; fi
done

pids=()
stop() {
  trap - EXIT
  trap '' INT TERM
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Each child has a session of its own, so that Ctrl-C comes to it through stop alone.
start() { # NAME COMMAND...
  local name=$1; shift
  setsid "$@" >"$dir/$name.log" 2>&1 &
  pids+=($!)
}
# until_ready NAME COMMAND...: waits until the command succeeds, while the last child started lives.
until_ready() {
  local name=$1 pid=${pids[-1]}; shift
  for _ in $(seq 300); do
    if "$@"; then return; fi
    if ! kill -0 "$pid" 2>/dev/null; then break; fi
    sleep 0.2
  done
  echo "$name is not ready: its log, $dir/$name.log, ends:" >&2
  tail -5 "$dir/$name.log" >&2
  exit 1
}

# shellcheck disable=SC2086 # several flags
start cluster "$bin/streamhouse" dev --data-dir "$dir/cluster" ${DEV_ARGS:-}
until_ready cluster grep -q 'cluster ready' "$dir/cluster.log"

# The configuration of deploy/ is for three nodes.
count=$(awk '$1 ~ /^n[0-9]+$/' "$dir/cluster.log" | wc -l)
[ "$count" -eq 3 ] || { echo "the cluster has $count nodes, and deploy/prometheus/prometheus.yml three: leave --nodes out of DEV_ARGS" >&2; exit 1; }

# The configuration of deploy/ with the addresses of this machine. The table of nodes has id, pid, gRPC and HTTP.
nodes=$(awk '$1 ~ /^n[0-9]+$/ {print $1, $4}' "$dir/cluster.log")
# A rule that is gone must not stay from an earlier run.
rm -rf "$dir/rules"
cp -R "$root/deploy/prometheus/rules" "$dir/"
awk -v nodes="$nodes" -v alertmanager="$alertmanager" '
  BEGIN { n = split(nodes, rows, "\n"); for (i = 1; i <= n; i++) { split(rows[i], f, " "); http[f[1] ":8080"] = f[2] } }
  /^ *- targets:/ {
    target = $0; sub(/.*\[/, "", target); sub(/\].*/, "", target)
    to = target == "alertmanager:9093" ? alertmanager : http[target]
    if (to == "") { print "no node for target " target > "/dev/stderr"; exit 1 }
    sub(/\[.*\]/, "[\"" to "\"]")
  }
  { print }' "$root/deploy/prometheus/prometheus.yml" >"$dir/prometheus.yml"

start alertmanager "$bin/alertmanager" --config.file="$root/deploy/alertmanager/alertmanager.yml" \
  --storage.path="$dir/alertmanager" --web.listen-address="$alertmanager" --cluster.listen-address=
until_ready alertmanager listens "$alertmanager"
start prometheus "$bin/prometheus" --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/prometheus" \
  --web.listen-address="$prometheus" --enable-feature=exemplar-storage
until_ready prometheus listens "$prometheus"

echo
cat "$dir/cluster.log"
cat <<TEXT

Prometheus    http://$prometheus/targets  http://$prometheus/alerts
Alertmanager  http://$alertmanager
logs, data    $dir
Ctrl-C stops all
TEXT
wait -n || true
echo "one of them has ended: look into $dir/*.log" >&2
exit 1
