#!/bin/sh
# bench.sh GPULET REPOSITORY DEVICE OUT: what the server costs at saturation: the same model, batch and whole device,
# first graph replays back to back without the server (gpulet run --replay), then through it by connections that always
# have another request (four batches of them). The figure is the second over the first; the aim is 0.95.
set -u
gpulet=$1 repo=$2 device=$3 out=$4
seconds=${SECONDS_EACH:-15}
bad=0
for model in ${BENCH_MODELS:-resnet50 bert}; do
  for batch in ${BENCH_BATCHES:-32}; do
    one=${GPULET_WORK:-/tmp/gpulet}/bench-$model
    [ -d "$one/$model" ] || { mkdir -p "$one" && cp -r "$repo/$model" "$one/"; }
    # Throughput is the question here, so the SLO must not refuse what waits behind three other batches.
    sed -i 's/\("slo_ms" value { string_value: "\)[^"]*/\11000/' "$one/$model/config.pbtxt"
    "$gpulet" run "$repo/$model" --device "$device" --share 100 --batch "$batch" --count 400 --replay --json \
      >"$out/bench-$model-direct.json" || { bad=1; continue; }
    direct=$(python3 - "$out/bench-$model-direct.json" "$out/bench-$model-plan.json" <<'PY'
import json, sys
d = json.load(open(sys.argv[1]))
rate = d["replay_rows_per_s"]
model = {"name": d["model"], "batch": d["batch"], "rate": rate, "latency_ms": d["p50_ms"], "slo_ms": 1000}
gpulet = {"granules": d["granules"], "share": 100, "models": [model]}
gpu = {"id": 0, "type": d["device"], "gpulets": [gpulet]}
plan = {"policy": "optimal", "feasible": True, "gpus_used": 1, "reasons": [], "gpus": [gpu]}
json.dump(plan, open(sys.argv[2], "w"))
print(int(rate))
PY
)
    [ "${direct:-0}" -gt 0 ] || { echo "$model: no throughput in $out/bench-$model-direct.json"; bad=1; continue; }
    printf 'models:\n  - name: %s\n    rate: %s/s\n    slo: 1s\n' "$model" "$direct" >"$out/bench-$model.yaml"
    ready=$out/bench-$model.ready
    rm -f "$ready"
    "$gpulet" serve --model-repository "$one" --devices "$device" --plan "$out/bench-$model-plan.json" \
      --host 127.0.0.1 --http-port 0 --metrics-port -1 --arena-size 2GiB --default-slo 1s --ready-file "$ready" \
      >"$out/bench-$model-serve.log" 2>&1 &
    server=$!
    i=0
    while [ ! -s "$ready" ] && [ $i -lt 300 ] && kill -0 $server 2>/dev/null; do i=$((i + 1)); sleep 0.2; done
    if [ ! -s "$ready" ]; then
      echo "$model: the server is not up: $(tail -1 "$out/bench-$model-serve.log")"
      kill $server 2>/dev/null
      bad=1
      continue
    fi
    port=$(sed -n 's/^http //p' "$ready")
    "$gpulet" load --url "http://127.0.0.1:$port" --workload "$out/bench-$model.yaml" --warmup 2s \
      --duration "${seconds}s" --closed $((batch * ${BATCHES_WAITING:-4})) --quiet --json \
      >"$out/bench-$model-load.json" || bad=1
    kill $server 2>/dev/null
    wait $server 2>/dev/null
    python3 - "$model" "$batch" "$direct" "$out/bench-$model-load.json" <<'PY' || bad=1
import json, sys
model, batch, direct, path = sys.argv[1:]
d = json.load(open(path))
m = next(x for x in d.get("models", []) if x.get("name") == model)
served = m["ok"] / d["seconds"]
ratio = served / float(direct)
print(f"{model} batch {batch}: {direct}/s back to back, {served:.0f}/s through the server: {ratio:.3f}, "
      f"p99 {m['p99_ms']:.1f} ms")
PY
  done
done
exit $bad
