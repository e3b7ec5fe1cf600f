#!/usr/bin/env bash
# The native driver under valgrind's memcheck, scalar and AVX2 (valgrind 3.19 knows no AVX-512).
source "$(dirname "$0")/common.sh"
mkdir -p build
configure build/native -DFASTCONV_NATIVE_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
build build/native driver
for level in scalar avx2; do
  if ! grep -qw avx2 /proc/cpuinfo && [[ $level == avx2 ]]; then
    echo "valgrind: this CPU has no AVX2, which valgrind passes through: not run" >&2
    continue
  fi
  valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite build/native/driver "$level"
done
