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
if grep -qw avx2 <("$qemu" -cpu help 2>&1); then # an emulator with AVX2 (7.2): the level runs where AVX-512 is missing
  "$qemu" -cpu Haswell build/native/driver avx2
fi

# The package as a user runs it. numpy asks for SSE4.2, and its OpenBLAS must be told which kernels that means.
export OPENBLAS_CORETYPE=Nehalem
"$PYTHON" - << 'EOF'
from pathlib import Path

import numpy as np

import fastconv
from tests.small import images, network

folder = Path("build/native")
(folder / "net.onnx").write_bytes(network())
np.savez(folder / "want.npz", x=images(2), **{f"y{i}": y for i, y in enumerate(fastconv.load(network())(images(2)))})
EOF
"$qemu" -cpu Nehalem "$PYTHON" - << 'EOF'
import numpy as np

import fastconv

assert fastconv.isa.isa_levels() == ["scalar"], fastconv.isa.isa_levels()
want = np.load("build/native/want.npz")
for i, y in enumerate(fastconv.load("build/native/net.onnx", threads=2)(want["x"])):
    error = np.abs(y - want[f"y{i}"]).max() / np.abs(want[f"y{i}"]).max()
    assert error < 1e-5, error
try:
    fastconv.load("build/native/net.onnx", _isa="avx2")
except fastconv.DeviceError as e:
    print("package: right, and", e)
else:
    raise SystemExit("the package accepted the AVX2 level")
EOF
