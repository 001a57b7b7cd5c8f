#!/bin/sh
# bench.sh GPULET REPOSITORY DEVICE OUT: what the server costs at saturation: the same model, batch and whole device,
# first back to back without the server (gpulet run), then through it under more load than it can take. The figure is
# the second over the first; the aim is 0.95.
set -u
gpulet=$1 repo=$2 device=$3 out=$4
seconds=${SECONDS_EACH:-15}
bad=0
for model in ${BENCH_MODELS:-resnet50 bert}; do
  for batch in ${BENCH_BATCHES:-32}; do
    one=$out/bench-repo-$model
    mkdir -p "$one"
    ln -sfn "$repo/$model" "$one/$model"
    "$gpulet" run "$repo/$model" --device "$device" --share 100 --batch "$batch" --count 400 --json >"$out/bench-$model-direct.json" || { bad=1; continue; }
    direct=$(python3 - "$out/bench-$model-direct.json" <<'PY'
import json, sys
d = json.load(open(sys.argv[1]))
def find(o, names):
    if isinstance(o, dict):
        for n in names:
            if isinstance(o.get(n), (int, float)):
                return o[n]
        o = list(o.values())
    for v in o if isinstance(o, list) else []:
        r = find(v, names)
        if r is not None:
            return r
print(int(find(d, ["rows_per_second", "throughput", "rows_per_s", "per_second"]) or 0))
PY
)
    [ "${direct:-0}" -gt 0 ] || { echo "$model: no throughput in $out/bench-$model-direct.json"; bad=1; continue; }
    printf 'models:\n  - name: %s\n    rate: %s/s\n    slo: 500ms\n' "$model" $((direct * 12 / 10)) >"$out/bench-$model.yaml"
    "$gpulet" serve --model-repository "$one" --devices "$device" --policy shared --http-port 0 --grpc-port 0 --metrics-port 0 \
      --port-file "$out/bench-$model.ports" >"$out/bench-$model-serve.log" 2>&1 &
    server=$!
    i=0
    while [ ! -s "$out/bench-$model.ports" ] && [ $i -lt 300 ] && kill -0 $server 2>/dev/null; do i=$((i + 1)); sleep 0.2; done
    port=$(sed -n 's/^http[^0-9]*\([0-9][0-9]*\).*/\1/p' "$out/bench-$model.ports" 2>/dev/null | head -1)
    "$gpulet" load --url "http://127.0.0.1:$port" --workload "$out/bench-$model.yaml" --duration "${seconds}s" --arrival uniform --json >"$out/bench-$model-load.json" || bad=1
    kill $server 2>/dev/null
    wait $server 2>/dev/null
    python3 - "$model" "$batch" "$direct" "$seconds" "$out/bench-$model-load.json" <<'PY' || bad=1
import json, sys
model, batch, direct, seconds, path = sys.argv[1:]
d = json.load(open(path))
m = next(x for x in d.get("models", []) if x.get("name") == model)
served = next(m[k] for k in ("goodput", "throughput", "answered_per_second") if k in m)
print(f"{model} batch {batch}: {direct}/s back to back, {served:.0f}/s through the server: {served / float(direct):.3f}")
PY
  done
done
exit $bad
