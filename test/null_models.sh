#!/bin/sh
# null_models.sh WORKLOAD.yaml DIR: a model repository with every model of the workload, without the models: each takes
# and gives 16 numbers. For simulated devices, which take as long as the profile says.
set -eu
[ $# = 2 ] || { echo "usage: null_models.sh WORKLOAD.yaml DIR" >&2; exit 2; }
names=$(sed -n 's/.*{name: *\([^,} ]*\).*/\1/p' "$1")
[ -n "$names" ] || { echo "$1: no lines such as '- {name: resnet18, rate: 10/s}'" >&2; exit 1; }
for m in $names; do
  mkdir -p "$2/$m/1"
  cat >"$2/$m/config.pbtxt" <<PB
backend: "null"
max_batch_size: 32
input  [ { name: "IN"  data_type: TYPE_FP32 dims: [ 16 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 16 ] } ]
dynamic_batching { }
PB
done
