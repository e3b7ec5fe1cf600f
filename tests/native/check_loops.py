"""The main loops of the register tiles: FMAs, reads and spills per iteration, from the disassembled objects.

    python -m tests.native.check_loops BUILD_DIR [neon]     the build has tests/native/driver's objects

A tile<MR, NV> issues MR * NV FMAs per step; an iteration has STEPS of them, and compilers may unroll more. Its
accumulators must stay in registers: no store to the stack, no vector from it, in as far as the registers suffice. It
reads MR broadcasts and at most one weight per FMA; the tiles that do most of the work have limits of their own, from
g++ 12, clang 14 and the same source. Needs objdump (binutils, which comes with every compiler): without it the check
fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.native import loops

REGISTERS = {"avx2": 16, "avx512": 32, "neon": 32}
LANES = {"avx2": 8, "avx512": 16, "neon": 4}
STEPS = {"avx2": 4, "avx512": 1, "neon": 1}  # of an iteration, as in csrc/cpu/simd
Limits = dict[tuple[int, float], tuple[int, int]]
# (MR, NV): instructions and reads per step. Instructions may be a tenth more, for other compilers.
MAIN: dict[str, Limits] = {
    "avx512": {(6, 4): (40, 10), (7, 4): (44, 17), (8, 3): (43, 11), (12, 2): (48, 14), (12, 1): (23, 13)},
    "avx2": {(6, 2): (23, 8), (12, 1): (29, 13)},
    "neon": {(6, 4): (46, 10), (8, 3): (46, 11), (12, 2): (54, 14), (12, 1): (40, 13)},
}
# Dense layers with one to three rows, weights from a cache: as wide as a panel.
STREAMS: dict[str, Limits] = {"avx512": {(1, 8): (20, 9)}, "avx2": {(1, 8): (20, 9)},  # g++ 15, clang 22
           "neon": {(1, 8): (23, 9)}}  # fmt: skip
# half_tile<MR, NV>, whose last vector serves two rows, counts as NV - 1/2 vectors wide.
HALF: dict[str, Limits] = {"avx512": {(14, 1.5): (57, 16), (10, 2.5): (53, 13)}, "avx2": {}, "neon": {}}
# stagger<G, NV>: three groups of G rows, each of which reads the weights.
STAGGER: dict[str, Limits] = {"avx512": {(4, 2): (49, 18), (2, 4): (47, 18)}, "avx2": {}, "neon": {}}
# lagging_tile<MR, NV>, whose left and right columns broadcast each row for themselves.
LAGGING: dict[str, Limits] = {"avx512": {(6, 4): (52, 16), (8, 3): (50, 19)}, "avx2": {}, "neon": {}}
# plain_tile<MR, NV>, of one tap and whole vectors, where a tile takes several steps at once.
PLAIN: dict[str, Limits] = {"avx512": {}, "avx2": {(6, 2): (23, 8), (12, 1): (28, 13)}, "neon": {}}
# plain_tile<MR, NV, true>, which fetches rows.
ROWS: dict[str, Limits] = {"avx512": {}, "avx2": {(6, 2): (23, 8)}, "neon": {}}
# run_tile<MR, NV>, of filter rows of RGB pixels: three steps an iteration.
RUN: dict[str, Limits] = {"avx512": {}, "avx2": {(6, 2): (24, 8)}, "neon": {}}
SPECIAL = {"stagger": STAGGER, "lagging_tile": LAGGING, "plain_tile": PLAIN, "plain_tile, rows": ROWS, "run_tile": RUN}
CONV = {level: {**MAIN[level], **HALF[level]} for level in MAIN}
SOURCES = {"conv2d": CONV, "winograd": MAIN, "linear": STREAMS, "grouped_conv2d": {level: {} for level in MAIN}}
TILE = re.compile(
    r"\bfastconv::(avx2|avx512|neon)::(?:\(anonymous namespace\)::)?"
    r"(half_tile|lagging_tile|plain_tile|run_tile|stagger|tile|stream)<(\d+), (\d+)(, true)?[,>]"
)
PANEL = re.compile(r"\bfastconv::(avx2|avx512|neon)::(?:\(anonymous namespace\)::)?add_panel<(\d)>")
GROUPED = re.compile(r"\bfastconv::(avx2|avx512|neon)::(?:\(anonymous namespace\)::)?grouped_tile<(\d+), (\d), (\d)")


def problems(
    level: str, rows: int, vectors: float, loop: loops.Loop | None, limit: tuple[int, int] | None
) -> list[str]:
    """What is wrong with a tile's main loop; `limit` as in MAIN."""
    work = int(rows * vectors)
    if loop is None:
        return ["has no loop with FMAs"]
    steps, rest = divmod(loop.fmas, work)
    if rest or not steps:
        return [f"issues {loop.fmas} FMAs, no multiple of {work}"]
    found = []
    # A broadcast and a weight stand beside the accumulators. Where that is too much anyway, clang spills two more.
    excess = work + 2 - REGISTERS[level]
    allowed = (excess + 2) * steps if excess > 0 else 0
    # Of fifteen integer registers rows take twelve: in an iteration of several steps, where to fetch lies in memory.
    pointer = int(STEPS[level] > 1 and rows >= 12)
    if loop.spills > allowed + pointer or loop.vector_reloads > allowed:
        found.append(f"stores {loop.spills} values to the stack and reloads {loop.vector_reloads} vectors per loop")
    most_instructions, most_reads = limit or (0, work + rows)
    if loop.reads - loop.vector_reloads > most_reads * steps:
        found.append(f"reads {loop.reads / steps:g} times per step, limit {most_reads}")
    if limit and loop.instructions > 1.1 * most_instructions * steps:
        found.append(f"takes {loop.instructions / steps:g} instructions per step, limit {1.1 * most_instructions:.1f}")
    return found


def functions(
    level: str, lines: Iterable[str], kind: re.Pattern[str]
) -> Iterator[tuple[re.Match[str], list[loops.Instruction]]]:
    """The functions of a level whose name `kind` finds in a disassembly."""
    instruction = loops.ArmInstruction if level == "neon" else loops.Instruction
    for name, body in loops.functions(lines, instruction):
        tile = kind.search(name)
        if tile and tile[1] == level:
            yield tile, body


def check(level: str, lines: Iterable[str], limits: Limits, fetches: bool = False) -> tuple[list[str], int]:
    """Problems of all tiles in a disassembly, and how many tiles there are. A tile of `limits` that is missing is a
    problem; where the source fetches weights ahead, so is a loop that does not: compilers drop prefetches silently.
    (A stagger fetches outside of its inner loop.)"""
    found: list[str] = []
    seen: set[tuple[str, int, float]] = set()
    count = 0
    for tile, body in functions(level, lines, TILE):
        kind, rows, vectors, count = tile[2], int(tile[3]), float(tile[4]), count + 1
        if kind == "half_tile":
            vectors -= 0.5
        if kind == "plain_tile" and tile[5]:
            kind = "plain_tile, rows"
        if kind not in SPECIAL:  # streams, too
            kind = "tile"
        seen.add((kind, rows, vectors))
        loop, limit = loops.main_loop(body), SPECIAL.get(kind, {level: limits})[level].get((rows, vectors))
        wrong = problems(level, 3 * rows if kind == "stagger" else rows, vectors, loop, limit)
        steps = STEPS[level]
        lines_fetched = 2 if steps * int(tile[4]) * LANES[level] > 32 else 1  # as fetched_lines() in csrc/cpu/tile.h
        fetching = fetches and kind != "stagger"
        if fetching and loop and loop.prefetches * steps * int(rows * vectors) < lines_fetched * loop.fmas:
            wrong.append(f"fetches {loop.prefetches} lines ahead, not {lines_fetched} in {steps} steps")
        found += [f"{kind}<{rows}, {vectors:g}> {text}" for text in wrong]
    wanted = {("tile", *size) for size in limits}
    if limits is CONV[level]:
        wanted |= {(kind, *size) for kind in SPECIAL for size in SPECIAL[kind][level]}
    found += [f"{kind}<{rows}, {vectors:g}> is missing" for kind, rows, vectors in sorted(wanted - seen)]
    return found, count


def check_grouped(level: str, lines: Iterable[str]) -> tuple[list[str], int]:
    """The same of grouped_tile<QT, ST, NV, ...>: an iteration is a channel of a filter row, 3 QT NV FMAs whose sums and
    weights stay in registers. Of two vectors, broadcasts that the next tap needs too may wait on the stack. With stride
    2, groups of four read and spread 11 pixels for 15 FMAs."""
    found: list[str] = []
    count = 0
    for tile, body in functions(level, lines, GROUPED):
        count += 1
        work, loop = 3 * int(tile[2]) * int(tile[4]), loops.main_loop(body)
        if loop is None or not loop.fmas or loop.fmas % work:
            found.append(f"{tile[0]}> issues {loop.fmas if loop else 0} FMAs, no multiple of {work}")
        elif loop.vector_reloads > (int(tile[2]) if tile[4] == "2" else 0) or loop.instructions > 3.4 * loop.fmas:
            text = f"reloads {loop.vector_reloads} vectors, takes {loop.instructions} instructions for {loop.fmas} FMAs"
            found.append(f"{tile[0]}> {text}")
    return found if count else ["grouped_tile is missing"], count


def check_panels(level: str, lines: Iterable[str]) -> tuple[list[str], int]:
    """The same of add_panel<MR>, dense weights from memory: an iteration adds four inputs to a line of the sums of MR
    rows, which come from L1, and fetches four lines."""
    found: list[str] = []
    count = 0
    for tile, body in functions(level, lines, PANEL):
        count += 1
        work, loop = 4 * int(tile[2]) * 16 // LANES[level], loops.main_loop(body)
        if loop is None or not loop.fmas or loop.fmas % work or loop.prefetches != 4 * (loop.fmas // work):
            found.append(f"{tile[0]} has no loop that adds and fetches four lines: {loop}")
        elif loop.spills or loop.vector_reloads:
            found.append(f"{tile[0]} stores {loop.spills} values to the stack, reloads {loop.vector_reloads} vectors")
    return found if count == 3 else [f"{count} functions add_panel instead of 3"], count


def main() -> int:
    folder = Path(sys.argv[1])
    failed = total = 0
    levels = sys.argv[2:] or ["avx2", "avx512"]
    for level in levels:
        for source, limits in SOURCES.items():
            obj = folder / "CMakeFiles" / f"kernels_{level}.dir" / "csrc" / "cpu" / f"{source}.cpp.o"
            objdump = "aarch64-linux-gnu-objdump" if level == "neon" else "objdump"
            command = [objdump, "-d", "-C", "--no-show-raw-insn", str(obj)]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            if source == "grouped_conv2d":
                found, count = check_grouped(level, text.splitlines())
            else:
                found, count = check(level, text.splitlines(), limits[level], fetches=source != "linear")
            if source == "linear":
                more, panels = check_panels(level, text.splitlines())
                found, count = found + more, count + panels
            total += count
            failed += len(found)
            for line in found:
                print(f"{source}.cpp, {level}: {line}", file=sys.stderr)
    print(f"{total} tiles, {failed} problems in their main loops")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
