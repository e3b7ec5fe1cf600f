"""The objects that are compiled for AVX2 or AVX-512 may define no symbol outside their own namespace.

An inline or template function that such an object shares with baseline code would be emitted in both, and the linker
keeps one: perhaps the copy with instructions that an older CPU lacks. So every global or weak definition must stand in
fastconv::<level>. Usage: check_symbols.py BUILD_DIR
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


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
    folder = Path(sys.argv[1])
    bad = count = 0
    for level in ("scalar", "avx2", "avx512", "neon"):
        objects = sorted((folder / "CMakeFiles" / f"kernels_{level}.dir").rglob("*.o"))
        if not objects and level == "scalar":
            print(f"no objects in {folder}: make clean, then make", file=sys.stderr)
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
