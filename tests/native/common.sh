# What the native scripts share: where the tree is, which Python and cmake, pytest's options, and how the kernels are
# built.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
PYTHON=${PYTHON:-python3}
jobs=$(nproc)
pytest=(-q -n auto --maxprocesses 4 -p no:cacheprovider)
cmake=$("$PYTHON" -c 'import os, sysconfig; p = sysconfig.get_path("scripts") + "/cmake"; print(p if os.path.exists(p) else "cmake")')

# configure FOLDER OPTION...: a build tree that finds this Python
configure() {
  local folder=$1
  shift
  "$cmake" -S . -B "$folder" -DPython_EXECUTABLE="$("$PYTHON" -c 'import sys; print(sys.executable)')" \
    -Dpybind11_DIR="$("$PYTHON" -m pybind11 --cmakedir)" "$@" > "$folder.log" 2>&1 || { cat "$folder.log"; exit 1; }
}

# build FOLDER TARGET...
build() {
  local folder=$1
  shift
  "$cmake" --build "$folder" -j "$jobs" --target "$@" >> "$folder.log" 2>&1 || { cat "$folder.log"; exit 1; }
}
