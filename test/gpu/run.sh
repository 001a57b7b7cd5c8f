#!/bin/sh
# run.sh test|bench|profile: what ./dev gpu runs, on a GPU host. gpulet and device_check are linked elsewhere and
# carried (GPULET_BIN); only the libtorch plugin is compiled here, against the libtorch of this host's Python.
# Every step has a time limit of its own and none stops the others. Results and logs: $OUT (/tmp/gpulet-out).
#
#   GPULET_BIN     directory of gpulet and device_check (build/release/bin)
#   GPULET_WORK    scratch: plugin and models, kept between calls (/tmp/gpulet)
#   GPULET_MODELS  an exported repository to use instead of exporting one
#   DEVICE cuda:0  BUDGET 6m (profile)  STEPS "device plugin ..." (only these)
#   MODELS "a b"   only these  LIMIT 540: seconds for everything; steps that do not fit are skipped and say so
set -u
cd "$(dirname "$0")/../.." || exit 1
self=$PWD/test/gpu/run.sh
what=${1:-test}
call=
if [ "$what" = --call ]; then # a function of this script, under `timeout`
  call=$2
  shift 2
  what="test"
fi
out=${OUT:-/tmp/gpulet-out}
work=${GPULET_WORK:-/tmp/gpulet}
bin=${GPULET_BIN:-build/release/bin}
device=${DEVICE:-cuda:0}
ordinal=${device#cuda:}
limit=${LIMIT:-540}
repo=${GPULET_MODELS:-$work/models}
began=$(date +%s)
mkdir -p "$out" "$work/bin"
summary=$out/summary-$what.txt
[ -n "$call" ] || : >"$summary"
failed=0

case $what in
  test | bench | profile) ;;
  *) echo "usage: run.sh test|bench|profile" >&2; exit 2 ;;
esac
for f in gpulet device_check; do
  if [ -z "$call" ] && [ -x "$bin/$f" ]; then cp "$bin/$f" "$work/bin/$f"; fi
done
gpulet=$work/bin/gpulet

step() { # name seconds command...
  name=$1 seconds=$2
  shift 2
  [ -n "${STEPS:-}" ] && case " $STEPS " in *" $name "*) ;; *) return 0 ;; esac
  left=$((limit - $(date +%s) + began))
  if [ "$left" -lt 10 ]; then
    printf '%-22s %-8s\n' "$name" "NO TIME" | tee -a "$summary"
    failed=1
    return 1
  fi
  [ "$seconds" -gt "$left" ] && seconds=$left
  from=$(date +%s)
  printf '== %s\n' "$name"
  timeout -k 5 "$seconds" "$@" >"$out/$name.log" 2>&1
  rc=$?
  case $rc in
    0) verdict=ok ;;
    77) verdict=skipped ;;
    124 | 137) verdict=TIMEOUT failed=1 ;;
    *) verdict="FAILED $rc" failed=1 ;;
  esac
  tail -n "${TAIL:-12}" "$out/$name.log" | cut -c1-240
  printf '%-22s %-10s %4d s\n' "$name" "$verdict" $(($(date +%s) - from)) | tee -a "$summary"
  [ "$verdict" = ok ]
}

plugin() {
  prefix=$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)') || return 1
  generator=
  command -v ninja >/dev/null 2>&1 && generator='-G Ninja'
  # shellcheck disable=SC2086
  cmake -S src/engine/torch -B "$work/torch" $generator -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefix" -DGPULET_TORCH_CUDA=ON &&
    cmake --build "$work/torch" -j 8 && cp "$work/torch/libgpulet_torch.so" "$work/bin/"
}

export_models() {
  [ -f "$repo/.complete" ] && return 0
  # shellcheck disable=SC2046
  python3 models/export.py --output "$repo" --set paper $([ -n "${MODELS:-}" ] && echo --models "$(echo "$MODELS" | tr ' ' ,)") && : >"$repo/.complete"
}

# The engine's answers against PyTorch's references; two gpu-lets at once.
compare() { # precision rtol
  # shellcheck disable=SC2046
  "$work/torch/engine_check" "$work/bin/libgpulet_torch.so" --cuda "$ordinal" --sms 16 --precision "$1" --rtol "$2" \
    $([ "$1" = fp16 ] && echo --channels-last) "$repo"
}

models() { for d in "$repo"/*/; do m=$(basename "$d"); [ -f "$d/config.pbtxt" ] && echo "$m"; done; }

# gpulet run: every model at several batches and shares, through the device and its graphs.
run_all() {
  bad=0
  for m in $(models); do
    verify=
    [ -d "$repo/$m/reference" ] && verify=--verify
    for share in 25 50 100; do
      for batch in 1 8; do
        if "$gpulet" run "$repo/$m" --device "$device" --share $share --batch $batch --count 50 $verify --json >"$out/run.tmp" 2>"$out/run.err"; then
          printf '%s share %s batch %s: %s\n' "$m" $share $batch "$(tr -d '\n' <"$out/run.tmp" | cut -c1-200)"
        else
          printf '%s share %s batch %s: FAILED: %s\n' "$m" $share $batch "$(tail -1 "$out/run.err")"
          bad=1
        fi
      done
    done
  done
  return $bad
}

profile() { # output budget
  # shellcheck disable=SC2046
  "$gpulet" profile --model-repository "$repo" --device "$device" --output "$1" --budget "$2" --max-batch 32 \
    $([ -n "${MODELS:-}" ] && echo --models "$(echo "$MODELS" | tr ' ' ,)")
}

if [ -n "$call" ]; then
  "$call" "$@"
  exit
fi
export OUT="$out"
step host 20 sh -c 'uname -a; nvidia-smi --query-gpu=name,uuid,driver_version,memory.total,clocks.sm,power.draw --format=csv; python3 -c "import torch; print(torch.__version__, torch.version.cuda)"; ldd "$0" | grep "not found"; true' "$gpulet"
if [ "$what" = test ]; then step device 240 "$work/bin/device_check"; fi
step plugin 180 sh "$self" --call plugin
step export 180 sh "$self" --call export_models

case $what in
  test)
    step compare_fp32 150 sh "$self" --call compare fp32 1e-3
    step compare_fp16 150 sh "$self" --call compare fp16 2e-2
    step run 240 sh "$self" --call run_all
    step profile_short 90 sh "$self" --call profile "$out/profile-short" 60s
    [ -f test/gpu/serve.sh ] && step serve 180 sh test/gpu/serve.sh "$gpulet" "$repo" "$device" "$out"
    ;;
  profile)
    step profile 560 sh "$self" --call profile "$out/profile" "${BUDGET:-6m}"
    ;;
  bench)
    step bench 400 sh test/gpu/bench.sh "$gpulet" "$repo" "$device" "$out"
    ;;
esac
echo "-- $what on $device, $(($(date +%s) - began)) s; logs in $out"
cat "$summary"
exit $failed
