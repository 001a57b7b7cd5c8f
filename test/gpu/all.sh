#!/bin/sh
# all.sh [test|bench [goodput [OPTIONS]]|profile]: what a visit to a GPU host should bring home, in one call. gpulet and device_check are
# linked elsewhere and carried; the plugin is compiled here against this host's libtorch while the models are exported.
# Then the steps:
#   check     the device through the driver
#   answers   equal to PyTorch's, alone
#   show      the server: load, plan changes, faults (show.py)
#   process   the same in processes under MPS
#   sanitize  compute-sanitizer over load, capture and replay; codes that cuDNN's own driver calls return are no errors
#   bench     against bare graph replays (bench.sh)
#   goodput   goodput over the offered rate, by policy (bench/goodput.py)
#   profile
#
#   STEPS="check show"  only these    LIMIT 540   seconds for everything: a step starts only while some are left
#   CARRY build/release/bin: directory of gpulet and device_check, and models/ that are slow to train
#   DEVICE cuda:0 (cuda:0,1 with a PLAN_A for two)   PLAN_A, PLAN_B, WORKLOAD   MODELS "a b"   PRECISION fp16
#   GOODPUT_ARGS options of bench/goodput.py run; $CARRY/LABEL/gpulet, for LABELS "before ...", are servers measured
#   beside this one; PROFILE
#   SECONDS_EACH 12 of each load   PHASES of show.py, PROCESS_PHASES
#   OUT results (/tmp/gpulet-out)  GPULET_WORK scratch
set -u
cd "$(dirname "$0")/../.." || exit 1
case ${1:-test} in
  test) steps="check answers show process" ;;
  bench)
    steps=${2:-bench}
    [ "$steps" = bench ] || [ "$steps" = goodput ] || { echo "usage: all.sh bench [goodput [OPTIONS]]" >&2; exit 2; }
    [ $# -lt 2 ] || { shift 2; GOODPUT_ARGS="${GOODPUT_ARGS:-} $*"; }
    ;;
  profile) steps=profile ;;
  *) echo "usage: all.sh [test|bench [goodput [OPTIONS]]|profile]" >&2; exit 2 ;;
esac
steps=${STEPS:-$steps}
export OUT="${OUT:-/tmp/gpulet-out}" GPULET_WORK="${GPULET_WORK:-/tmp/gpulet}"
work=$GPULET_WORK carry=${CARRY:-build/release/bin} device=${DEVICE:-cuda:0} limit=${LIMIT:-540}
precision=${PRECISION:-fp16}
repo=$work/models
tolerance=2e-2
[ "$precision" = fp32 ] && tolerance=1e-3 repo=$work/models-fp32
plan_a=${PLAN_A:-test/gpu/nine-a.json} plan_b=${PLAN_B:-test/gpu/nine-b.json} workload=${WORKLOAD:-test/gpu/nine.yaml}
began=$(date +%s)
bad=0
left() { echo $((limit - $(date +%s) + began)); }
step() { # name seconds: is it wanted, and is there time for it? Then $seconds is what it may take
  case " $steps " in *" $1 "*) ;; *) return 1 ;; esac
  seconds=$(($(left) - 15))
  [ "$seconds" -gt "$2" ] && seconds=$2
  printf '\n== %s (%s s left)\n' "$1" "$(left)"
  [ "$seconds" -ge 20 ] || { echo "no time left for it"; bad=1; return 1; }
}
keep() { tar czf "$OUT/$1.tgz" -C "$work/logs" "$1" 2>/dev/null; }
logs() { rm -rf "$work/logs/$1"; mkdir -p "$work/logs/$1"; echo "$work/logs/$1"; }
mkdir -p "$OUT" "$work/bin" "$repo" "$work/logs"
cp "$carry/gpulet" "$carry/device_check" "$work/bin/" || exit 1
gpulet=$work/bin/gpulet

make_plugin() {
  [ -f "$work/bin/libgpulet_torch.so" ] && return
  cmake -S src/engine/torch -B "$work/torch" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DGPULET_TORCH_CUDA="${TORCH_CUDA:-ON}" \
    -DCMAKE_PREFIX_PATH="$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)')" &&
    ninja -C "$work/torch" gpulet_torch && cp "$work/torch/libgpulet_torch.so" "$work/bin/"
}
make_plugin >"$work/plugin.log" 2>&1 &
if step check 100; then
  timeout "$seconds" "$work/bin/device_check" ${CHECKS:-} 2>&1 | cut -c1-600 || bad=1
fi
printf '\n== plugin and models (%s s left)\n' "$(left)"
[ ! -d "$carry/models" ] || [ "$precision" != fp16 ] || cp -r "$carry/models/." "$repo/"
for m in ${MODELS:-lenet googlenet resnet50 ssd vgg16 mnasnet1_0 mobilenet_v2 densenet161 bert}; do
  [ -f "$repo/$m/config.pbtxt" ] && continue
  # A few threads each: with many, the small operators of LeNet's training spin against one another for minutes.
  OMP_NUM_THREADS=2 timeout 120 python3 models/export.py --set paper --uint8 --precision "$precision" \
    --models "$m" --output "$repo" --reference-device cuda:0 >"$work/export-$m.log" 2>&1 &
done
wait
tail -q -n 1 "$work"/export-*.log
[ -f "$work/bin/libgpulet_torch.so" ] || { tail -5 "$work/plugin.log"; exit 1; }

if step answers 150; then
  timeout "$seconds" python3 test/gpu/answers.py "$gpulet" "$repo" "${device%%,*}" "$tolerance" || bad=1
fi
if step sanitize 100; then
  l=$(logs sanitize)
  for m in ${SANITIZE_MODELS:-resnet50 bert}; do
    timeout "$seconds" compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 \
      --log-file "$l/$m.log" "$gpulet" run "$repo/$m" --device "${device%%,*}" --share 50 --batch 2 --count 3 --json \
      >"$l/$m.json" 2>"$l/$m.err"
    echo "$m: exit $? $(tail -n 1 "$l/$m.log" | cut -c1-120) $(tail -n 1 "$l/$m.err" | cut -c1-120)" &
  done
  wait
  keep sanitize
fi
if step show 240; then
  l=$(logs show)
  COMPARE=${COMPARE:-$tolerance} timeout "$seconds" python3 test/gpu/show.py "$gpulet" "$repo" "$device" \
    "$plan_a" "$plan_b" "$workload" "$l" 2>&1 | tee "$l/show.log"
  keep show
fi
if step process 200; then
  l=$(logs process)
  SERVE_FLAGS="--isolation process ${SERVE_FLAGS:-}" PHASES=${PROCESS_PHASES:-steady change death mps} \
    timeout "$seconds" python3 test/gpu/show.py "$gpulet" "$repo" "$device" \
    "$plan_a" "$plan_b" "$workload" "$l" 2>&1 | tee "$l/show.log"
  keep process
fi
if step bench 120; then
  l=$(logs bench)
  SECONDS_EACH=${BENCH_SECONDS:-6} timeout "$seconds" sh test/gpu/bench.sh "$gpulet" "$repo" "$device" "$l" 2>&1 |
    tee "$l/bench.log"
  rm -f "$l"/*.ready "$l"/bench-*.yaml "$l"/bench-*-plan.json
  keep bench
fi
if step goodput 590; then
  case ${PROFILE:-$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)} in
    */*) profile=$PROFILE ;;
    *H200*) profile=profiles/h200 ;;
    *) profile=profiles/h100 ;;
  esac
  set -- # servers beside this one
  for label in ${LABELS:-}; do
    [ $# -gt 0 ] || set -- --server "now=$gpulet"
    mkdir -p "$work/$label"
    cp "$carry/$label/"* "$work/$label/" || exit 1
    set -- "$@" --server "$label=$work/$label/gpulet"
  done
  # shellcheck disable=SC2086 # a list of options is meant; quoted patterns are not, so that nothing is expanded here
  (set -f; timeout -k 20 $((seconds + 5)) python3 bench/goodput.py run --gpulet "$gpulet" "$@" --model-repository "$repo" --device "${device%%,*}" --profile "$profile" \
    --output "$OUT/goodput" --time $((seconds - 10)) ${GOODPUT_ARGS:-}) || bad=1
fi
if step profile 590; then
  timeout -k 5 $((seconds + 10)) "$gpulet" profile --model-repository "$repo" --device "$device" \
    --output "$work/profile" --budget "$((seconds - 15))s" --max-batch 32 >"$work/profile.log" 2>&1 || bad=1
  tail -n 12 "$work/profile.log" | cut -c1-160
  tar czf "$OUT/profile.tgz" -C "$work" profile profile.log
fi
printf '\n== done (%s s left)\n' "$(left)"
exit $bad
