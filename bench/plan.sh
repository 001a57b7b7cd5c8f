#!/bin/sh
# plan.sh BUILD_DIR [OPTIONS]: the paper's 1,023 and 19,682 cases for every policy on the H200 profile. Without options
# a seeded tenth of them with and without interference; --sample 0 runs all.
set -eu
build=$1; shift
if [ $# -gt 0 ]; then exec "$build/bench/plan_study" profiles/h200-graphs "$@"; fi
"$build/bench/plan_study" profiles/h200-graphs --cases 1023 --sample 200 --limit-ms 200
"$build/bench/plan_study" profiles/h200-graphs --cases 19682 --sample 400 --limit-ms 200
"$build/bench/plan_study" profiles/h200-graphs --cases 1023 --sample 200 --limit-ms 200 --no-interference
