#!/bin/sh
# ring.sh BUILD_DIR [BATCHES]: round trip of a null batch between server and worker.
set -eu
build=$1; shift
exec "$build/bench/ring_bench" "$@"
