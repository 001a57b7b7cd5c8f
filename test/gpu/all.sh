#!/bin/sh
# all.sh: everything that a short visit to a GPU host should bring home, in one call: the plugin and the models are made
# side by side, then the server is shown at work (test/gpu/show.py), compared with bare graph replays (bench.sh), and what
# time is left goes to the profile. LIMIT (380): seconds for everything. Files carried along: $CARRY/{gpulet,device_check}.
set -u
cd "$(dirname "$0")/../.." || exit 1
out=${OUT:-/tmp/gpulet-out}
export OUT="$out" GPULET_WORK=${GPULET_WORK:-/tmp/gpulet}
work=$GPULET_WORK carry=${CARRY:-build/release/bin} device=${DEVICE:-cuda:0} limit=${LIMIT:-380}
began=$(date +%s)
left() { echo $((limit - $(date +%s) + began)); }
note() { printf '== %s (%s s left)\n' "$*" "$(left)"; }
mkdir -p "$out" "$work/bin" "$work/models"
cp "$carry/gpulet" "$carry/device_check" "$work/bin/" || exit 1
gpulet=$work/bin/gpulet

note "plugin and models"
{
  cmake -S src/engine/torch -B "$work/torch" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGPULET_TORCH_CUDA="${TORCH_CUDA:-ON}" \
    -DCMAKE_PREFIX_PATH="$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)')" && ninja -C "$work/torch" gpulet_torch && cp "$work/torch/libgpulet_torch.so" "$work/bin/"
} >"$out/plugin.log" 2>&1 &
[ ! -d "$carry/models" ] || cp -r "$carry/models/." "$work/models/" # small ones that are slow to train
for m in ${MODELS:-lenet googlenet resnet50 ssd vgg16 mnasnet1_0 mobilenet_v2 densenet161 bert}; do
  OMP_NUM_THREADS=2 timeout 120 python3 models/export.py --set paper --uint8 --models "$m" --output "$work/models" ${REFERENCE:---reference-device cuda:0} >"$work/export-$m.log" 2>&1 &
done
[ "$device" != cuda:0 ] || timeout 60 "$work/bin/device_check" ${CHECKS:-sms} 2>&1 | tail -25
wait
tail -q -n 1 "$work"/export-*.log
[ -f "$work/bin/libgpulet_torch.so" ] || { tail -5 "$out/plugin.log"; exit 1; }

note "the server at work"
COMPARE=${COMPARE:-2e-2} SECONDS_EACH=${SHOW_SECONDS:-22} timeout 150 python3 test/gpu/show.py "$gpulet" "$work/models" "$device" \
  "${PLAN_A:-test/gpu/nine-a.json}" "${PLAN_B:-test/gpu/nine-b.json}" "${WORKLOAD:-test/gpu/nine.yaml}" "$out" 2>&1 | tee "$out/show.log"

note "against bare graph replays"
SECONDS_EACH=${BENCH_SECONDS:-6} BENCH_MODELS=${BENCH_MODELS:-resnet50 bert} timeout 90 sh test/gpu/bench.sh "$gpulet" "$work/models" "$device" "$out" 2>&1 | tee "$out/bench.log"

budget=$(($(left) - 25))
if [ "$budget" -gt 20 ]; then
  note "profile, budget $budget s"
  timeout -k 5 $((budget + 20)) "$gpulet" profile --model-repository "$work/models" --device "$device" --output "$work/profile" --budget "${budget}s" --max-batch 32 >"$out/profile.log" 2>&1
  tail -n 12 "$out/profile.log" | cut -c1-160
  tar czf "$out/profile.tgz" -C "$work" profile
fi
rm -f "$out"/show.ready "$out"/*.ready "$out"/bench-*.yaml "$out"/bench-*-plan.json
tar czf "$work/logs.tgz" -C "$out" --exclude='*.tgz' . ; mv "$work/logs.tgz" "$out/"; find "$out" -maxdepth 1 -type f ! -name '*.tgz' ! -name show.log ! -name bench.log -delete
note "done"
