#!/bin/sh
# demo.sh BUILD MODELS PYTHON: serves the sample models, classifies digits over the wire, drives every model with
# Poisson arrivals, prints one table. Called by ./dev demo.
set -eu
build=$1 models=$2 python=$3
here=$(cd "$(dirname "$0")" && pwd)
gpulet=$build/bin/gpulet
tmp=$(mktemp -d)
server=
finish() {
  code=$?
  trap - EXIT INT TERM
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || code=1
  fi
  [ $code = 0 ] || { echo "demo: failed; the server's log:" >&2; tail -30 "$tmp/log" >&2; }
  rm -rf "$tmp"
  exit $code
}
trap finish EXIT INT TERM

echo "Starting the server (models in $models)..." >&2
"$gpulet" serve --model-repository "$models" --devices "${DEMO_DEVICES:-auto}" --host 127.0.0.1 --http-port 0 --metrics-port 0 \
  --ready-file "$tmp/ready" >"$tmp/log" 2>&1 &
server=$!
while [ ! -f "$tmp/ready" ]; do
  kill -0 "$server" 2>/dev/null || { server=; exit 1; }
  sleep 0.1
done
port=$(sed -n 's/^http //p' "$tmp/ready")
url=http://127.0.0.1:$port

echo "Classifying real digit images through the server..." >&2
"$python" "$here/python/digits.py" --url "$url" --models "$models" --at-least 0.97

cat >"$tmp/workload.yaml" <<'YAML'
models:
  - {name: lenet,        rate: 60/s, slo: 60ms}
  - {name: mobilenet_v2, rate: 3/s,  slo: 1500ms}
  - {name: resnet18,     rate: 2/s,  slo: 1500ms}
  - {name: bert_small,   rate: 3/s,  slo: 1500ms}
YAML
echo "Driving every model for ${DEMO_SECONDS:-15} s (Poisson arrivals)..." >&2
"$gpulet" load --url "$url" --workload "$tmp/workload.yaml" --duration "${DEMO_SECONDS:-15}s" --seed 1
