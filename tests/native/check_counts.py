"""Instructions that the scalar and AVX2 kernels take, counted by callgrind and compared with counts.json.

    python -m tests.native.check_counts BUILD_DIR [--update]

The count is exact and repeatable, unlike a time: a kernel that lost its unrolling or vectors shows at once. It may
differ from the recorded one by TOLERANCE with the compiler that recorded it, by OTHER_COMPILER with another. Fewer
instructions are a difference too: record them with --update, so that they stay. Needs valgrind, which knows no AVX-512;
check_loops.py covers that level.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

LEVELS = ("scalar", "avx2")
TOLERANCE, OTHER_COMPILER = 0.02, 0.25
RECORDED = Path(__file__).with_name("counts.json")
CASES = (
    "gemm", "implicit_s2", "row_run", "winograd", "depthwise_3x3", "depthwise_3x3_s2", "depthwise_5x5",
    "grouped_4", "grouped_8", "grouped_16_s2", "dense_1", "dense_far",
    "dense_8", "pool", "swish", "images", "weight_gradient", "weight_images", "input_gradient", "pool_gradient",
    "affine_sample", "dropout",
)  # fmt: skip
Counts = dict[str, dict[str, int]]


def compiler(folder: Path) -> str:
    """Name and major version of the compiler of a build tree, as "GNU 12"."""
    path = max(folder.glob("CMakeFiles/*/CMakeCXXCompiler.cmake"), key=lambda p: p.stat().st_mtime)
    text = path.read_text()
    name, version = (re.search(rf'set\(CMAKE_CXX_COMPILER_{k} "(.*?)"\)', text) for k in ("ID", "VERSION"))
    if not name or not version:
        raise ValueError(f"{path} names no compiler")
    return f"{name[1]} {version[1].split('.')[0]}"


def measure(driver: Path, level: str, case: str) -> int:
    """Instructions of one run. RuntimeError where the driver fails, and so where its result is wrong."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=driver_counted"]
    done = subprocess.run([*command, str(driver), level, case], capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found or int(found[1]) == 0:
        raise RuntimeError(f"{level} {case}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return int(found[1])


def compare(got: Counts, want: Counts, tolerance: float) -> list[str]:
    """A line for each case that differs by more than the tolerance or is recorded on one side only."""
    found = []
    for level, counts in got.items():
        for case in dict.fromkeys([*counts, *want.get(level, {})]):
            mine, recorded = counts.get(case), want.get(level, {}).get(case)
            if mine is None or recorded is None:
                found.append(f"{level} {case}: counted {mine}, recorded {recorded}")
            elif abs(mine / recorded - 1) > tolerance:
                share = mine / recorded - 1
                found.append(f"{level} {case}: {mine:,} instructions, {share:+.1%} of the recorded {recorded:,}")
    return found


def main() -> int:
    folder, update = Path(sys.argv[1]), "--update" in sys.argv[2:]
    levels = [n for n in LEVELS if n != "avx2" or re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text())]
    for level in set(LEVELS) - set(levels):
        print(f"{level}: this CPU lacks it, and valgrind passes it through: not counted", file=sys.stderr)
    got = {level: {case: measure(folder / "driver", level, case) for case in CASES} for level in levels}
    built = compiler(folder)
    if update:
        RECORDED.write_text(json.dumps({"compiler": built, "counts": got}, indent=1) + "\n")
        print(f"recorded {RECORDED}")
        return 0
    recorded = json.loads(RECORDED.read_text())
    tolerance = TOLERANCE if built == recorded["compiler"] else OTHER_COMPILER
    found = compare(got, recorded["counts"], tolerance)
    for line in found:
        print(line, file=sys.stderr)
    total = sum(map(len, got.values()))
    print(
        f"{total} counts by {built}, recorded by {recorded['compiler']}, tolerance {tolerance:.0%}: {len(found)} differ"
    )
    if found:
        print("where that is right: python -m tests.native.check_counts BUILD_DIR --update", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
