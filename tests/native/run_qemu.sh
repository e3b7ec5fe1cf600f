#!/usr/bin/env bash
# The native driver on an emulated CPU without AVX: baseline code holds no newer instruction, the dispatcher finds the
# scalar level only, and its results are right.
source "$(dirname "$0")/common.sh"
mkdir -p build
configure build/native -DFASTCONV_NATIVE_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
build build/native driver
qemu=$(command -v qemu-x86_64)
"$qemu" -cpu Nehalem build/native/driver scalar
status=0
"$qemu" -cpu Nehalem build/native/driver avx2 || status=$?
if [[ $status != 3 ]]; then
  echo "a CPU without AVX accepted the AVX2 level (exit code $status)" >&2
  exit 1
fi
