#!/usr/bin/env bash
# The NEON kernels, cross-built and run under qemu-user: the native driver, tests/kernels with every kernel call going to
# an emulated process, and the main loops of the tiles from the disassembly. Speed is not looked at.
source "$(dirname "$0")/common.sh"
mkdir -p build
folder=build/aarch64
"$cmake" -S . -B $folder -DCMAKE_TOOLCHAIN_FILE="$root/cmake/aarch64-linux-gnu.cmake" -DFASTCONV_PYTHON=OFF \
  -DFASTCONV_LIBRARY=ON -DFASTCONV_NATIVE_TESTS=ON > $folder.log 2>&1 || { cat $folder.log; exit 1; }
build $folder driver kernel_server
qemu="$(command -v qemu-aarch64) -L /usr/aarch64-linux-gnu"
$qemu $folder/driver scalar
$qemu $folder/driver neon
"$PYTHON" -m tests.native.check_loops $folder neon
"$PYTHON" tests/native/check_symbols.py $folder
FASTCONV_TEST_EMULATOR="$qemu $folder/kernel_server" "$PYTHON" -m pytest "${pytest[@]}" -k neon tests/kernels
FASTCONV_TEST_TARGET=aarch64 "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_embedded.py
