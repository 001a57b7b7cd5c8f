#!/bin/sh
# bench/neighbour.sh BUILD...: do large answers hold up small requests? Alone, and beside 32 connections that fetch 1.2 MB
# answers (null model, 1 KiB in) without a pause, one connection sends 1 KiB requests one after the other. Several
# builds are measured in turn, round by round, so that a busy host is the same for all; a BUILD may be a gpulet program.
set -eu
rounds=${ROUNDS:-5} seconds=${SECONDS_PER_ROUND:-4}
command -v wrk >/dev/null || { echo "bench neighbour: wrk is missing (Debian: apt-get install wrk)" >&2; exit 1; }
tmp=$(mktemp -d)
servers=""
finish() {
  code=$?
  trap - EXIT INT TERM
  for s in $servers; do kill "$s" 2>/dev/null && wait "$s" || true; done
  rm -rf "$tmp"
  exit $code
}
trap finish EXIT INT TERM

mkdir -p "$tmp/models/small/1" "$tmp/models/large/1"
# On the gpu-let the small model's earlier deadline goes first, after one large answer at most: what is left is the loop.
for m in small:1024:1000 large:1200000:10000; do
  slo=${m##*:} m=${m%:*}
  cat >"$tmp/models/${m%:*}/config.pbtxt" <<PB
backend: "null"
max_batch_size: 1
input  [ { name: "IN"  data_type: TYPE_UINT8 dims: [ 1024 ] } ]
output [ { name: "OUT" data_type: TYPE_UINT8 dims: [ ${m#*:} ] } ]
parameters { key: "slo_ms" value { string_value: "$slo" } }
dynamic_batching { max_queue_delay_microseconds: 0 }
PB
  cat >"$tmp/${m%:*}.lua" <<LUA
local head = '{"inputs":[{"name":"IN","datatype":"UINT8","shape":[1,1024],"parameters":{"binary_data_size":1024}}],"parameters":{"binary_data_output":true}}'
wrk.method = "POST"
wrk.path = "/v2/models/${m%:*}/infer"
wrk.body = head .. string.rep("x", 1024)
wrk.headers["Inference-Header-Content-Length"] = tostring(#head)
function done(summary, latency, requests)
  local e = summary.errors
  print(string.format("RESULT %d %.0f %.0f %.0f %d", summary.requests / (summary.duration / 1e6), latency:percentile(50), latency:percentile(99), latency.max, e.connect + e.read + e.write + e.status + e.timeout))
end
LUA
done
[ $# -gt 0 ] || set -- build/release
i=0
for build in "$@"; do
  i=$((i + 1))
  gpulet=$build
  [ ! -d "$build" ] || gpulet=$build/bin/gpulet
  "$gpulet" serve --model-repository "$tmp/models" --devices cpu:0 --host 127.0.0.1 --http-port 0 --metrics-port 0 --batching eager \
    --ready-file "$tmp/ready$i" ${SERVE_FLAGS:-} >"$tmp/log$i" 2>&1 &
  servers="$servers $!"
  while [ ! -f "$tmp/ready$i" ]; do kill -0 $! 2>/dev/null || { cat "$tmp/log$i" >&2; exit 1; }; sleep 0.05; done
done
measure() { # server, name: the small client's figures, the errors of both
  url=http://127.0.0.1:$(sed -n 's/^http //p' "$tmp/ready$1")
  if [ "$2" = beside ]; then
    wrk -t1 -c32 -d"$((seconds + 1))s" --timeout 30s -s "$tmp/large.lua" "$url" >"$tmp/large" 2>&1 &
    large=$!
    sleep 0.5
  fi
  wrk -t1 -c1 -d"${seconds}s" --timeout 30s -s "$tmp/small.lua" "$url" >"$tmp/small" 2>&1
  sed -n 's/^RESULT //p' "$tmp/small" >>"$tmp/$2$1"
  if [ "$2" = beside ]; then
    wait "$large"
    sed -n 's/^RESULT //p' "$tmp/large" >>"$tmp/large$1"
  fi
}
round=0
while [ $round -lt "$rounds" ]; do
  i=0
  for build in "$@"; do
    i=$((i + 1))
    measure $i alone
    measure $i beside
  done
  round=$((round + 1))
done
echo "medians of $rounds rounds of $seconds s, $(nproc) cores:"
i=0
for build in "$@"; do
  i=$((i + 1))
  echo "$build"
  for name in alone beside large; do
    for k in 1 2 3 4 5; do
      awk -v k=$k '{print $k}' "$tmp/$name$i" | sort -n | awk '{v[NR] = $1} END {printf "%s ", v[int((NR + 1) / 2)]}'
    done | awk -v name=$name '{what["alone"] = "1 KiB alone"; what["beside"] = "1 KiB beside 32 x 1.2 MB"; what["large"] = "32 x 1.2 MB"
      printf "  %-26s %7d requests/s   p50 %6.2f  p99 %7.2f  max %7.2f ms   errors %d\n", what[name], $1, $2 / 1e3, $3 / 1e3, $4 / 1e3, $5}'
  done
  port=$(sed -n 's/^metrics //p' "$tmp/ready$i")
  python3 - "$port" <<'PY'
import sys, urllib.request
text = urllib.request.urlopen("http://127.0.0.1:%s/metrics" % sys.argv[1]).read().decode()
m = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
for name, what in (("gpulet_loop_lag_seconds", "end of a batch noticed after"), ("gpulet_decision_gap_seconds", "between decisions")):
    n = float(m.get(name + "_count", 0))
    if n:
        over = [n - float(m['%s_bucket{le="%s"}' % (name, le)]) for le in ("0.0005", "0.005")]
        print("  %-30s %d times, mean %.0f us, over 0.5 ms %d, over 5 ms %d times" % (what, n, float(m[name + "_sum"]) / n * 1e6, *over))
if "gpulet_decision_gap_max_seconds" in m:
    print("  longest without a decision     %.2f ms" % (float(m["gpulet_decision_gap_max_seconds"]) * 1e3))
PY
done
