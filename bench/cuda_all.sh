#!/usr/bin/env bash
# bench/cuda_all.sh [FOLDER]: on a machine with an NVIDIA GPU, CUDA's toolkit, a C++ compiler and Python with its
# headers, the whole verdict on the CUDA plugin within ten minutes: builds it for the card, checks its machine code, runs
# all GPU tests, times every layer of ResNet50 and VGG16 and whole networks beside PyTorch and onnxruntime where they are
# installed, and runs compute-sanitizer on the small tests. Packages that are missing come from pip; where the system
# forbids that, into a virtual environment on top of its own. Results go to FOLDER (build/cuda-results); short tables
# come last, and FOLDER/results.tar.gz has all of it in one file. Every step has a time limit and a process of its own, and
# a failing one does not keep the others from running: where Hopper's kernel fails its tests, all that follows goes
# without it. The exit status says whether all held.
# EMULATE=1: no GPU; tests/cuda's emulator stands in for it and everything is small, as a trial of this script.
# Variables: PYTHON, ARCH (as CMAKE_CUDA_ARCHITECTURES), NVCC, JOBS, SECONDS_ALL (570), BUILD (a folder where both
# libraries were built already, for this card and this Python; the package's compiled module then lies in fastconv/).
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=$(realpath -m "${1:-build/cuda-results}")
JOBS=${JOBS:-$(nproc)}
EMULATE=${EMULATE:-}
mkdir -p "$OUT"
started=$SECONDS
deadline=$((SECONDS + ${SECONDS_ALL:-570}))
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
  if [ "$code" = 124 ] || [ "$code" = 137 ]; then code="$code (after its $limit s)"; fi
  note "$name" "FAILED with $code after $((SECONDS - from)) s; the end of $OUT/$name.log:"
  tail -n 15 "$OUT/$name.log" | sed 's/^/   | /'
  status=1
  return 1
}

finish() {
  tar -czf "$OUT/results.tar.gz" -C "$OUT" --exclude venv --exclude results.tar.gz . 2>/dev/null
  echo
  echo "== steps"
  for i in "${!names[@]}"; do printf '%-12s %s\n' "${names[$i]}" "${verdicts[$i]%%;*}"; done | tee "$OUT/steps.txt"
  echo "all of it took $((SECONDS - started)) s; status $status"
  exit "$status"
}

# -- what is here ---------------------------------------------------------------------------------------------------
export PATH=$PATH:/usr/local/cuda/bin
if [ -n "$EMULATE" ]; then
  echo "emulated: no GPU is used, times say nothing" | tee "$OUT/card.txt"
elif ! nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader | tee "$OUT/card.txt"; then
  echo "no NVIDIA GPU or driver here (EMULATE=1 tries this script without one)"
  exit 2
fi

missing() {  # missing MODULE=PACKAGE...: the packages whose modules this Python does not find
  "$PYTHON" -c 'import importlib.util, sys
pairs = [a.split("=") for a in sys.argv[1:]]
print(*[package for module, package in pairs if importlib.util.find_spec(module) is None])' "$@"
}
needed=(numpy=numpy onnx=onnx PIL=Pillow rich=rich typer=typer pytest=pytest pytest_timeout=pytest-timeout)
[ -z "$EMULATE" ] && needed+=(pybind11=pybind11 cmake=cmake ninja=ninja)
read -ra packages <<<"$(missing "${needed[@]}")"
if [ "${#packages[@]}" -gt 0 ]; then
  managed='import os, sys, sysconfig
marker = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
sys.exit(not (sys.prefix == sys.base_prefix and os.path.exists(marker)))'
  if "$PYTHON" -c "$managed" && step venv 60 "$PYTHON" -m venv --system-site-packages --without-pip "$OUT/venv"; then
    PYTHON=$OUT/venv/bin/python
  fi
  step packages 120 "$PYTHON" -m pip install -q "${packages[@]}"
fi
export PYTHON
PATH=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):$PATH:$("$PYTHON" -m site --user-base)/bin
step here 60 "$PYTHON" -c 'import importlib.metadata as m, platform
print(platform.platform(), platform.python_version())
for name in ("numpy", "onnx", "torch", "onnxruntime-gpu", "onnxruntime", "pytest", "pytest-timeout", "pybind11", "cmake"):
    try: print(name, m.version(name))
    except m.PackageNotFoundError: print(name, "absent")'

# -- building -------------------------------------------------------------------------------------------------------
build() {
  local generator=()
  command -v ninja >/dev/null && generator=(-G Ninja)
  cmake "${generator[@]}" -S . -B "$BUILD" -DCMAKE_BUILD_TYPE=Release -DFASTCONV_CUDA=ON \
    "-DFASTCONV_CUDA_ARCHITECTURES=$ARCH" "-DCMAKE_CUDA_ARCHITECTURES=$ARCH" ${NVCC:+"-DCMAKE_CUDA_COMPILER=$NVCC"} \
    "-DPython_EXECUTABLE=$("$PYTHON" -c 'import sys; print(sys.executable)')" \
    "-Dpybind11_DIR=$("$PYTHON" -m pybind11 --cmakedir)" &&
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
  if [ -n "${BUILD:-}" ] && [ -f "$BUILD/libfastconv_cuda.so" ] && "$PYTHON" -c 'import fastconv' 2>/dev/null; then
    BUILD=$(realpath "$BUILD")
    echo "== build"
    note build "found in $BUILD"
  else  # what is there from an earlier call is only brought up to date
    BUILD=$(realpath -m "${BUILD:-build/cuda-$ARCH}")
    export BUILD ARCH NVCC JOBS
    step build 280 bash -c build || finish  # without it nothing can run
  fi
  export FASTCONV_CUDA_LIBRARY=$BUILD/libfastconv_cuda.so FASTCONV_TEST_CUDA=1
  if command -v cuobjdump >/dev/null; then
    step code 120 "$PYTHON" -m tests.cuda.check_code "$FASTCONV_CUDA_LIBRARY"
  else
    echo "== code"
    note code "NOT RUN: no cuobjdump"
  fi
fi

# -- correct? -------------------------------------------------------------------------------------------------------
# Warnings of packages that we do not choose are no errors here, nor that pytest-timeout's option in pyproject.toml is
# unknown without it. A file whose packages are missing fails by itself. Each file has a process of its own: after an
# illegal access none can go on, and a kernel that hangs is left by ending the process (timeouts by thread: a signal
# would wait for the driver).
run_tests=()
give_tests() {  # give_tests SECONDS: of each test at most
  run_tests=("$PYTHON" -m pytest -q -W default -W "ignore:Unknown config option:pytest.PytestConfigWarning")
  "$PYTHON" -c 'import pytest_timeout' 2>/dev/null && run_tests+=(--timeout "$1" --timeout-method thread)
  run_tests+=(-p no:cacheprovider --continue-on-collection-errors --maxfail 20)
}
give_tests $([ -n "$EMULATE" ] && echo 120 || echo 40)
export FASTCONV_TEST_ALL=1
rounds=tests/cuda/test_hopper.py::test_tf32_rounds_on_the_way
if ! step hopper 120 "${run_tests[@]}" tests/cuda/test_hopper.py --deselect "$rounds"; then
  export FASTCONV_CUDA_HOPPER=0
  echo "   all that follows goes without its kernel (FASTCONV_CUDA_HOPPER=0)"
fi
step tf32_rounds 60 "${run_tests[@]}" "$rounds"
if ! step winograd 60 "${run_tests[@]}" tests/cuda/test_winograd.py; then
  export FASTCONV_CUDA_WINOGRAD=0
  echo "   networks go without Winograd in what follows (FASTCONV_CUDA_WINOGRAD=0)"
fi
files=(conv2d device arrays fit ops training weighted models finetune)
[ -n "$EMULATE" ] && files=(device arrays fit)
tests_end=$((SECONDS + 150))  # for all of them; a file that its time ends has told about some
[ -n "$EMULATE" ] && tests_end=$((SECONDS + 280))
for file in "${files[@]}"; do
  limit=$((tests_end - SECONDS))
  [ "$limit" -lt 20 ] && limit=20
  step "$file" "$limit" "${run_tests[@]}" "tests/cuda/test_$file.py"
done

# -- how exact, how fast? ---------------------------------------------------------------------------------------------
smoke=()
[ -n "$EMULATE" ] && smoke=(--smoke)
sanitizer=$(command -v compute-sanitizer || true)
step accuracy 80 "$PYTHON" -m bench.cuda accuracy "${smoke[@]}" --json "$OUT/accuracy.json"
left=$((deadline - SECONDS - 10))
[ -n "$sanitizer" ] && left=$((left - 70))  # what the sanitizers need: 45 s on an H200
[ "$left" -lt 60 ] && left=60
measured=$((left - 15))
[ -n "$EMULATE" ] && measured=30
step times "$left" "$PYTHON" -m bench.cuda time "${smoke[@]}" --seconds "$measured" --json "$OUT/times.json"

# -- memory and races -------------------------------------------------------------------------------------------------
# The small shapes of each kind of kernel. A tool that its time ends has been through some of them: its findings stand
# in the log as it goes, and the verdict says which it was.
kinds="3x3 or one-pixel or blocks or test_deep or test_tiles or test_linear or test_small or test_batch_norms or test_pools"
small=(tests/cuda/test_hopper.py tests/cuda/test_conv2d.py tests/cuda/test_winograd.py tests/cuda/test_weighted.py
  tests/cuda/test_training.py -k "$kinds")
give_tests 200
for tool in memcheck racecheck; do
  if [ -n "$EMULATE" ]; then
    step "$tool" 60 "${run_tests[@]}" --collect-only "${small[@]}"
  elif [ -n "$sanitizer" ]; then
    half=$(((deadline - SECONDS - 5) / 2))
    [ "$tool" = racecheck ] && half=$((deadline - SECONDS - 5))
    if ! step "$tool" "$half" env PYTHONUNBUFFERED=1 "$sanitizer" --tool "$tool" --error-exitcode 9 --target-processes all \
      "${run_tests[@]}" -vv "${small[@]}" && [[ ${verdicts[-1]} == *after\ its* ]]; then
      found=$(grep -cE '^=+ (Invalid|Error:|Race|Uninit|Program hit|Misaligned|.*hazard)' "$OUT/$tool.log" || true)
      passed=$(grep -c ' PASSED' "$OUT/$tool.log" || true)
      verdicts[-1]="NOT FINISHED: its time ended after $passed tests, with $found findings"
    fi
  else
    echo "== $tool"
    note "$tool" "NOT RUN: compute-sanitizer is not installed"
    status=1
  fi
done

echo
if ! "$PYTHON" -m bench.cuda table "$OUT" | tee "$OUT/table.txt"; then
  [ -z "$EMULATE" ] && status=1  # an emulator's times hold no limit
fi
finish
