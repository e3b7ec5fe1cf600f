#!/usr/bin/env bash
# build_driver.sh OUTPUT [BUILD] [compiler options]: link driver.cpp with the objects that BUILD made of the kernels
# and the plan (none of the Python binding).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
output=$1
build=${2:-$root/build/.venv}
shift $(($# < 2 ? $# : 2))

objects=()
while IFS= read -r object; do objects+=("$object"); done < <(
  find "$build/CMakeFiles" -name '*.o' -path '*/kernels_*.dir/*'
  find "$build/CMakeFiles/_core.dir/csrc" -name '*.o' ! -path '*/python/*' ! -name 'onnx_*'
)
if [[ ${#objects[@]} == 0 ]]; then
  echo "$build holds no objects: build first" >&2
  exit 1
fi
"${CXX:-g++}" -std=gnu++17 -O1 -g -I"$root/csrc" "$@" "$root/tests/native/driver.cpp" "${objects[@]}" -o "$output" -pthread
