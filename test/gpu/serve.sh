#!/bin/sh
# serve.sh GPULET REPOSITORY DEVICE OUT: plans all models of the repository onto one device from the profile that was
# just measured (OUT/profile or OUT/profile-short), serves them in gpu-lets, drives them, and prints the table.
# RATE (100): requests/s of every model; SLO (100ms); SECONDS_EACH (10).
set -u
gpulet=$1 repo=$2 device=$3 out=$4
profile=
for p in "$out/profile-short" "$out/profile" ${PROFILE:-}; do [ -f "$p/latency.csv" ] && profile=$p; done
echo "models:" >"$out/serve.yaml"
for d in "$repo"/*/; do
  m=$(basename "$d")
  [ -f "$d/config.pbtxt" ] || continue
  [ -n "$profile" ] && ! grep -q "^$m," "$profile/latency.csv" && { echo "$m is not in the profile: not served"; continue; }
  printf '  - {name: %s, rate: %s/s, slo: %s}\n' "$m" "${RATE:-100}" "${SLO:-100ms}" >>"$out/serve.yaml"
done
set --
if [ -n "$profile" ]; then
  "$gpulet" plan --profile "$profile" --workload "$out/serve.yaml" --gpus 1 --json >"$out/serve-plan.json" || { echo "no plan; see $out/serve-plan.json"; exit 1; }
  set -- --plan "$out/serve-plan.json"
fi
rm -f "$out/serve.ready"
"$gpulet" serve --model-repository "$repo" --devices "$device" "$@" --host 127.0.0.1 --http-port 0 --metrics-port -1 \
  --ready-file "$out/serve.ready" >"$out/serve-server.log" 2>&1 &
server=$!
i=0
while [ ! -s "$out/serve.ready" ] && [ $i -lt 600 ] && kill -0 $server 2>/dev/null; do i=$((i + 1)); sleep 0.2; done
if [ ! -s "$out/serve.ready" ]; then
  tail -3 "$out/serve-server.log"
  kill $server 2>/dev/null
  exit 1
fi
port=$(sed -n 's/^http //p' "$out/serve.ready")
bad=0
"$gpulet" load --url "http://127.0.0.1:$port" --workload "$out/serve.yaml" --warmup 2s --duration "${SECONDS_EACH:-10}s" --quiet || bad=1
kill $server 2>/dev/null
wait $server || bad=1
exit $bad
