#!/bin/sh
# goodput.sh BUILD_DIR [run|list|table|plot] [OPTIONS]: goodput over the offered rate by workload, SLOs and policy, on a simulated device unless
# --device says otherwise. Without a verb: run. --smoke: a few rows in less than a minute. See doc/benchmarks.md.
set -eu
build=$1; shift
case ${1:-} in run|list|table|plot) verb=$1; shift ;; *) verb=run ;; esac
case $verb in table|plot) exec python3 bench/goodput.py "$verb" "$@" ;; esac
exec python3 bench/goodput.py "$verb" --gpulet "$build/bin/gpulet" "$@"
