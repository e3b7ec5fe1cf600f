"""The objects that are compiled for AVX2 or AVX-512 may define no symbol outside their own namespace.

An inline or template function that such an object shares with baseline code would be emitted in both, and the linker
keeps one: perhaps the copy with instructions that an older CPU lacks. So every global or weak definition must stand in
fastconv::<level>. Usage: check_symbols.py [BUILD_DIR]; builds the kernels in build/symbols where none is given.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build() -> Path:
    """Compile the kernel objects alone."""
    import pybind11

    folder = ROOT / "build" / "symbols"
    paths = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    scripts = Path(sysconfig.get_path("scripts"))
    cmake = str(scripts / "cmake") if (scripts / "cmake").exists() else "cmake"
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([cmake, "-S", str(ROOT), "-B", str(folder), *paths], **quiet)  # type: ignore[call-overload]
    targets = ["--target", "kernels_avx2", "kernels_avx512", "kernels_scalar", "-j", "2"]
    subprocess.run([cmake, "--build", str(folder), *targets], **quiet)  # type: ignore[call-overload]
    return folder


def foreign(obj: Path, level: str) -> list[str]:
    """Definitions with external linkage in `obj` that are not in namespace fastconv::level."""
    lines = subprocess.run(["nm", "-C", "--defined-only", str(obj)], check=True, capture_output=True, text=True).stdout
    found = []
    for line in lines.splitlines():
        kind, _, name = line.split(maxsplit=1)[1].partition(" ")
        inside = f"fastconv::{level}::" in name
        if (kind.isupper() and not inside) or (kind in "uvw" and not inside):
            found.append(f"{kind} {name}")
    return found


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else build()
    bad = count = 0
    for level in ("scalar", "avx2", "avx512", "neon"):
        objects = sorted((folder / "CMakeFiles" / f"kernels_{level}.dir").rglob("*.o"))
        if not objects and level == "scalar":
            print(f"no objects in {folder}", file=sys.stderr)
            return 1
        for obj in objects:
            count += 1
            for symbol in foreign(obj, level):
                bad += 1
                print(f"{obj.name} ({level}): {symbol}", file=sys.stderr)
    print(f"{count} objects, {bad} symbols outside their level's namespace")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
