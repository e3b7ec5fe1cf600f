#!/usr/bin/env bash
# bench/cuda_all.sh [FOLDER]: on a machine with an NVIDIA GPU and the usual Python packages, the whole verdict on the
# CUDA plugin within ten minutes: builds it for the card, runs all GPU tests, compute-sanitizer on the small ones, and
# times every layer of ResNet50 and VGG16 and whole networks beside PyTorch and onnxruntime where they are installed.
# Results go to FOLDER (build/cuda-results); a short table comes last. Every step has a time limit and a failing one
# does not keep the others from running; the exit status says whether all held.
# Variables: PYTHON, ARCH (as CMAKE_CUDA_ARCHITECTURES), NVCC, SECONDS_BENCH (240), BUILD (where it was built already).
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=$(realpath -m "${1:-build/cuda-results}")
BUILD=${BUILD:-build/cuda}
JOBS=${JOBS:-$(nproc)}
mkdir -p "$OUT"
status=0
started=$SECONDS

step() {  # step NAME SECONDS COMMAND...: its output goes to FOLDER/NAME.log
  local name=$1 limit=$2 from=$SECONDS
  shift 2
  echo "== $name"
  if timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1; then
    echo "   ok, $((SECONDS - from)) s"
  else
    local code=$?
    echo "   FAILED with $code after $((SECONDS - from)) s; the end of $OUT/$name.log:"
    tail -n 15 "$OUT/$name.log" | sed 's/^/   | /'
    status=1
    return 1
  fi
}

nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader | tee "$OUT/card.txt" \
  || { echo "no NVIDIA GPU or driver here"; exit 2; }
if [ -z "${ARCH:-}" ]; then
  ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
  [ "$ARCH" = 90 ] && ARCH=90a
  ARCH=$ARCH-real
fi
NVCC=${NVCC:-$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)}

if [ -f "$BUILD/libfastconv_cuda.so" ] && compgen -G "fastconv/_core*.so" >/dev/null; then
  echo "== build: found in $BUILD"
else
  build() {
    "$PYTHON" -m pip install -q pybind11 cmake ninja scikit-build-core || echo "pip has nothing: trying what is installed"
    local core
    core=$(realpath fastconv)
    cmake -S . -B "$BUILD" -DCMAKE_BUILD_TYPE=Release -DFASTCONV_CUDA=ON "-DFASTCONV_CUDA_ARCHITECTURES=$ARCH" \
      ${NVCC:+"-DCMAKE_CUDA_COMPILER=$NVCC"} "-DPython_EXECUTABLE=$(command -v "$PYTHON")" \
      "-Dpybind11_DIR=$("$PYTHON" -m pybind11 --cmakedir)" &&
      cmake --build "$BUILD" --parallel "$JOBS" && cp "$BUILD"/_core*.so "$core"/
  }
  export -f build
  export PYTHON BUILD ARCH NVCC JOBS
  step build 300 bash -c build || exit 1
fi
export FASTCONV_CUDA_LIBRARY=$PWD/$BUILD/libfastconv_cuda.so FASTCONV_TEST_CUDA=1

step tests 150 "$PYTHON" -m pytest -q -x --timeout 120 -p no:cacheprovider tests/cuda
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck; do
    step "$tool" 90 "$sanitizer" --tool "$tool" --error-exitcode 9 --target-processes all \
      "$PYTHON" -m pytest -q -x -p no:cacheprovider tests/cuda/test_conv2d.py -k "tiles or deep or 3x3-c9"
  done
else
  echo "== compute-sanitizer is not installed: memcheck and racecheck were NOT run"
fi
left=$((590 - SECONDS + started))
limit=${SECONDS_BENCH:-240}
[ "$limit" -gt "$left" ] && limit=$left
step accuracy 60 "$PYTHON" -m bench.cuda accuracy --json "$OUT/accuracy.json"
step bench "$limit" "$PYTHON" -m bench.cuda time --seconds $((limit - 15)) --json "$OUT/times.json"
"$PYTHON" -m bench.cuda table "$OUT" | tee "$OUT/table.txt" || status=1
echo "all of it took $((SECONDS - started)) s; status $status"
exit $status
