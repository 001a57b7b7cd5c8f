#!/bin/sh
# demo.sh BUILD MODELS PYTHON: serves the sample models, classifies digits over the wire, drives every model with
# Poisson arrivals, prints one table. Called by ./dev demo.
set -eu
build=$1 models=$2 python=$3
here=$(cd "$(dirname "$0")" && pwd)
gpulet=$build/bin/gpulet
tmp=$(mktemp -d)
server="" child=""
finish() {
  code=$?
  trap - EXIT INT TERM HUP
  for p in $child $server; do kill -TERM "$p" 2>/dev/null || true; done
  for p in $child; do wait "$p" || true; done
  if [ -n "$server" ]; then wait "$server" || { [ $code != 0 ] || code=1; }; fi
  case $code in
    0) ;;
    129|130|143) echo "demo: stopped" >&2 ;;
    *) echo "demo: failed; the server's log:" >&2; tail -30 "$tmp/log" >&2 || true ;;
  esac
  rm -rf "$tmp"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
# A signal interrupts `wait`, not a command in the foreground: so nothing of length runs there.
step() { "$@" & child=$!; r=0; wait "$child" || r=$?; child=""; return $r; }

# The models as they are, with latencies to promise on a few slow cores. Triton's knob says how long a request may wait
# for company; without it a batch starts as soon as its gpu-let is idle.
serve() { # model slo_ms delay_ms rate
  mkdir -p "$tmp/models/$1"
  ln -s "$models/$1/1" "$tmp/models/$1/1"
  sed "s/\(\"slo_ms\" value { string_value: \)\"[^\"]*\"/\1\"$2\"/
    s/dynamic_batching {.*}/dynamic_batching { max_queue_delay_microseconds: ${3}000 }/" \
    "$models/$1/config.pbtxt" >"$tmp/models/$1/config.pbtxt"
  grep -q "\"$2\"" "$tmp/models/$1/config.pbtxt" && grep -q "microseconds: ${3}000 " "$tmp/models/$1/config.pbtxt" ||
    {
      echo "demo: $models/$1/config.pbtxt has no slo_ms or no dynamic_batching: remove $models and start again" >&2
      exit 1
    }
  echo "  - {name: $1, rate: $4/s}" >>"$tmp/workload.yaml"
}
echo "models:" >"$tmp/workload.yaml"
serve lenet        250 10 100
serve mobilenet_v2 500 50 15
serve resnet18    1000 100 5
serve bert_small   250 20 50

echo "Starting the server..." >&2
"$gpulet" serve --model-repository "$tmp/models" --devices "${DEMO_DEVICES:-auto}" --host 127.0.0.1 \
  --http-port 0 --metrics-port 0 --ready-file "$tmp/ready" >"$tmp/log" 2>&1 &
server=$!
while [ ! -f "$tmp/ready" ]; do
  kill -0 "$server" 2>/dev/null || exit 1
  sleep 0.1
done
url=http://127.0.0.1:$(sed -n 's/^http //p' "$tmp/ready")

echo "Classifying real digit images through the server..." >&2
step "$python" "$here/python/digits.py" --url "$url" --models "$models" --at-least 0.97

echo "Driving every model for ${DEMO_SECONDS:-15} s (Poisson arrivals)..." >&2
step "$gpulet" load --url "$url" --workload "$tmp/workload.yaml" --warmup 1s --duration "${DEMO_SECONDS:-15}s" \
  --seed 1 --bottleneck warn # it shares the machine's cores with the models
echo "Next: 'Serve your models' in README.md; build/release/bin/gpulet help" >&2
