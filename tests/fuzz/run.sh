#!/usr/bin/env bash
# libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer on the loader of saved plans and on the ONNX scanner,
# from the corpora beside this file. FUZZ: libFuzzer's options, such as -runs=1000000; a minute each if not given.
source "$(dirname "$0")/../native/common.sh"
mkdir -p build/fuzz
"$cmake" -S . -B build/fuzz -DCMAKE_CXX_COMPILER="${FUZZ_CXX:-clang++}" -DFASTCONV_PYTHON=OFF -DFASTCONV_FUZZ=ON \
  -DFASTCONV_LEVELS=scalar > build/fuzz.log 2>&1 || { cat build/fuzz.log; exit 1; }
build build/fuzz fuzz_plan fuzz_onnx
for target in ${FUZZ_TARGETS:-plan onnx}; do
  mkdir -p "build/fuzz/found/$target"
  echo "fuzzing $target"
  build/fuzz/fuzz_$target ${FUZZ:--max_total_time=60} -print_final_stats=1 -timeout=20 -rss_limit_mb=4096 \
    -artifact_prefix=build/fuzz/ "build/fuzz/found/$target" "tests/fuzz/corpus/$target" > "build/fuzz/$target.log" 2>&1 ||
    { tail -40 "build/fuzz/$target.log"; exit 1; }
  tail -9 "build/fuzz/$target.log"
done
