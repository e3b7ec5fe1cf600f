#!/usr/bin/env bash
# bench/cuda_all.sh [FOLDER]: on a machine with an NVIDIA GPU and the usual Python packages, the whole verdict on the
# CUDA plugin within ten minutes: builds it for the card, checks its machine code, runs all GPU tests, compute-sanitizer
# on the small ones, and times every layer of ResNet50 and VGG16 and whole networks beside PyTorch and onnxruntime where
# they are installed. Results go to FOLDER (build/cuda-results); short tables come last. Every step has a time limit, and
# a failing one does not keep the others from running; the exit status says whether all held.
# EMULATE=1: no GPU; tests/cuda's emulator stands in for it and everything is small, as a trial of this script.
# Variables: PYTHON, ARCH (as CMAKE_CUDA_ARCHITECTURES), NVCC, JOBS, BUILD (where it was built already), SECONDS_ALL (590).
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=$(realpath -m "${1:-build/cuda-results}")
BUILD=$(realpath -m "${BUILD:-build/cuda}")
JOBS=${JOBS:-$(nproc)}
EMULATE=${EMULATE:-}
mkdir -p "$OUT"
started=$SECONDS
deadline=$((SECONDS + ${SECONDS_ALL:-590}))
names=() verdicts=() status=0

note() {  # note NAME VERDICT
  names+=("$1") verdicts+=("$2")
  echo "   $2"
}

step() {  # step NAME SECONDS COMMAND...: its output goes to FOLDER/NAME.log; never longer than what is left
  local name=$1 limit=$2 from=$SECONDS left=$((deadline - SECONDS)) code=0
  shift 2
  echo "== $name"
  [ "$limit" -gt "$left" ] && limit=$left
  if [ "$limit" -lt 5 ]; then
    note "$name" "NOT RUN: no time is left"
    status=1
    return 1
  fi
  timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1 || code=$?
  if [ "$code" = 0 ]; then
    note "$name" "ok, $((SECONDS - from)) s"
    return 0
  fi
  [ "$code" = 124 ] && code="$code (after its $limit s)"
  note "$name" "FAILED with $code after $((SECONDS - from)) s; the end of $OUT/$name.log:"
  tail -n 15 "$OUT/$name.log" | sed 's/^/   | /'
  status=1
  return 1
}

finish() {
  echo
  echo "== steps"
  for i in "${!names[@]}"; do printf '%-12s %s\n' "${names[$i]}" "${verdicts[$i]%%;*}"; done | tee "$OUT/steps.txt"
  echo "all of it took $((SECONDS - started)) s; status $status"
  exit "$status"
}

# -- what is here ---------------------------------------------------------------------------------------------------
export PATH=$PATH:/usr/local/cuda/bin
packages() { "$PYTHON" -c 'import numpy, onnx, pytest, sys; print(sys.version)'; }
describe() {
  "$PYTHON" - <<'PY'
import importlib.metadata as m, platform
print(platform.platform(), platform.python_version())
for name in ("numpy", "onnx", "torch", "onnxruntime-gpu", "onnxruntime", "pytest", "pytest-timeout", "pybind11", "cmake"):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: print(name, "absent")
PY
}
export -f packages describe
export PYTHON
if [ -n "$EMULATE" ]; then
  echo "emulated: no GPU is used, times say nothing" | tee "$OUT/card.txt"
elif ! nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader | tee "$OUT/card.txt"; then
  echo "no NVIDIA GPU or driver here (EMULATE=1 tries this script without one)"
  exit 2
fi
step here 60 bash -c describe
if ! "$PYTHON" -c 'import numpy, onnx, pytest' 2>/dev/null; then
  step packages 120 "$PYTHON" -m pip install -q numpy onnx pytest pytest-timeout
fi

# -- building -------------------------------------------------------------------------------------------------------
build() {
  "$PYTHON" -m pip install -q pybind11 cmake ninja scikit-build-core || echo "pip has nothing: trying what is installed"
  local generator=()
  command -v ninja >/dev/null && generator=(-G Ninja)
  cmake "${generator[@]}" -S . -B "$BUILD" -DCMAKE_BUILD_TYPE=Release -DFASTCONV_CUDA=ON \
    "-DFASTCONV_CUDA_ARCHITECTURES=$ARCH" ${NVCC:+"-DCMAKE_CUDA_COMPILER=$NVCC"} \
    "-DPython_EXECUTABLE=$(command -v "$PYTHON")" "-Dpybind11_DIR=$("$PYTHON" -m pybind11 --cmakedir)" &&
    cmake --build "$BUILD" --parallel "$JOBS" && cp "$BUILD"/_core*.so "$(realpath fastconv)"/
}
export -f build
if [ -n "$EMULATE" ]; then
  step build 280 "$PYTHON" -c 'from tests.cuda import emulator; print(emulator.plugin())' || finish
  FASTCONV_CUDA_LIBRARY=$(tail -n 1 "$OUT/build.log")
  export FASTCONV_CUDA_LIBRARY
else
  if [ -z "${ARCH:-}" ]; then
    ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
    [ "$ARCH" = 90 ] && ARCH=90a
    ARCH=$ARCH-real
  fi
  NVCC=${NVCC:-$(command -v nvcc || true)}
  export BUILD ARCH NVCC JOBS
  if [ -f "$BUILD/libfastconv_cuda.so" ] && compgen -G "fastconv/_core*.so" >/dev/null; then
    echo "== build"
    note build "found in $BUILD"
  else
    step build 280 bash -c build || finish  # without it nothing can run
  fi
  export FASTCONV_CUDA_LIBRARY=$BUILD/libfastconv_cuda.so FASTCONV_TEST_CUDA=1
  if command -v cuobjdump >/dev/null; then
    step code 60 "$PYTHON" -m tests.cuda.check_code "$FASTCONV_CUDA_LIBRARY"
  else
    echo "== code"
    note code "NOT RUN: no cuobjdump"
  fi
fi

# -- correct? -------------------------------------------------------------------------------------------------------
limits=()
"$PYTHON" -c 'import pytest_timeout' 2>/dev/null && limits=(--timeout 120)
run_tests=("$PYTHON" -m pytest -q "${limits[@]}" -p no:cacheprovider --maxfail 20)
if [ -n "$EMULATE" ]; then
  step tests 120 "${run_tests[@]}" tests/cuda/test_device.py tests/cuda/test_fit.py tests/cuda/test_hopper.py
else
  step tests 170 "${run_tests[@]}" tests/cuda --ignore tests/cuda/test_emulator.py
fi
small=(tests/cuda/test_conv2d.py tests/cuda/test_hopper.py tests/cuda/test_training.py
  -k "test_tiles or test_deep or 3x3 or test_small or test_batch_norms or test_pools")
sanitizer=$(command -v compute-sanitizer || true)
for tool in memcheck racecheck; do
  if [ -n "$EMULATE" ]; then
    step "$tool" 60 "${run_tests[@]}" --collect-only "${small[@]}"
  elif [ -n "$sanitizer" ]; then
    step "$tool" 75 "$sanitizer" --tool "$tool" --error-exitcode 9 --target-processes all \
      "${run_tests[@]}" "${small[@]}"
  else
    echo "== $tool"
    note "$tool" "NOT RUN: compute-sanitizer is not installed"
    status=1
  fi
done

# -- how exact, how fast? ---------------------------------------------------------------------------------------------
smoke=()
[ -n "$EMULATE" ] && smoke=(--smoke)
step accuracy 70 "$PYTHON" -m bench.cuda accuracy "${smoke[@]}" --json "$OUT/accuracy.json"
left=$((deadline - SECONDS - 10))
[ -n "$EMULATE" ] && [ "$left" -gt 60 ] && left=60
[ "$left" -lt 20 ] && left=20
step times "$left" "$PYTHON" -m bench.cuda time "${smoke[@]}" --seconds $((left - 15)) --json "$OUT/times.json"
echo
if ! "$PYTHON" -m bench.cuda table "$OUT" | tee "$OUT/table.txt"; then
  [ -z "$EMULATE" ] && status=1  # an emulator's times hold no limit
fi
finish
