#!/usr/bin/env bash
# AddressSanitizer and UndefinedBehaviorSanitizer: the kernel tests on every level of this CPU, with a module built for
# it; then ThreadSanitizer on the thread pool, on two threads that run saved plans, and on repeats along a batch.
source "$(dirname "$0")/common.sh"
mkdir -p build
levels=$("$PYTHON" -c 'import fastconv; print(",".join(fastconv.isa.isa_levels()))')
configure build/sanitize -DFASTCONV_SANITIZE=ON -DFASTCONV_LEVELS="$levels" \
  -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$root/build/sanitize/fastconv"
build build/sanitize _core
for path in fastconv/*; do # the package around the other module
  case $path in *.so | */__pycache__) ;; *) ln -sfn "$root/$path" "build/sanitize/$path" ;; esac
done
ln -sfn "$root/tests" build/sanitize/tests
# Reports go to files: pytest takes what its workers write, and does not look at how they end.
rm -f build/sanitize/report.*
report=log_path=$root/build/sanitize/report
preload=$(g++ -print-file-name=libasan.so):$(g++ -print-file-name=libstdc++.so)
status=0
(cd build/sanitize && ASAN_OPTIONS=detect_leaks=0:$report UBSAN_OPTIONS=print_stacktrace=1:$report LD_PRELOAD=$preload \
  PYTHONPATH="$root/build/sanitize" "$PYTHON" -m pytest "${pytest[@]}" -p tests.native.sanitized --rootdir . \
  -c "$root/pyproject.toml" tests/kernels) || status=$?
if compgen -G "build/sanitize/report.*" > /dev/null; then
  cat build/sanitize/report.*
  exit 1
fi
[[ $status == 0 ]]
g++ -std=c++17 -g -O1 -fsanitize=thread -Icsrc tests/native/pool_stress.cpp csrc/threads.cpp -o build/pool_stress -pthread
build/pool_stress 20000
configure build/tsan -DFASTCONV_PYTHON=OFF -DFASTCONV_LIBRARY=ON -DFASTCONV_NATIVE_TESTS=ON -DFASTCONV_LEVELS=scalar \
  -DCMAKE_CXX_FLAGS="-fsanitize=thread -g"
build build/tsan two_threads repeats
"$PYTHON" - << 'EOF'
import fastconv
from tests.small import SHAPE, network

for blocks in (1, 2):
    fastconv.load(network(blocks)).save(f"build/tsan/{blocks}.fcplan", shape=(1, *SHAPE), isa=["scalar"])
EOF
build/tsan/two_threads build/tsan/1.fcplan build/tsan/2.fcplan
build/tsan/repeats build/tsan/1.fcplan
