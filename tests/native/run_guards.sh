#!/usr/bin/env bash
# Regression guards that need no quiet machine: main loops from the disassembly (AVX2, AVX-512), instruction counts by
# callgrind (scalar, AVX2).
source "$(dirname "$0")/common.sh"
mkdir -p build
configure build/native -DFASTCONV_NATIVE_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
build build/native driver
"$PYTHON" -m tests.native.check_loops build/native
"$PYTHON" -m tests.native.check_counts build/native
