"""The regression guards' reading of disassemblies and counts (tests/native/check_loops.py, check_counts.py)."""

from __future__ import annotations

import pytest

from tests.native import check_counts, check_loops, loops

NAME = "void fastconv::avx512::tile<2, 2>(fastconv::avx512::Tile const&)"
STEP = [
    "vmovups (%rax),%zmm0",
    "vmovups 0x40(%rax),%zmm1",
    "prefetcht1 (%rdx)",
    "vbroadcastss (%r8,%rcx,4),%zmm2",
    "vfmadd231ps %zmm2,%zmm0,%zmm4",
    "vfmadd231ps %zmm2,%zmm1,%zmm5",
    "vbroadcastss (%r9,%rcx,4),%zmm2",
    "vfmadd231ps %zmm2,%zmm0,%zmm6",
    "vfmadd231ps %zmm2,%zmm1,%zmm7",
    "inc    %rcx",
    "cmp    %rcx,%rsi",
]


def listing(step: list[str], name: str = NAME, before: tuple[str, ...] = ("mov    %rdi,%rax",)) -> list[str]:
    """As objdump prints it: a setup, the step as a loop, an outer loop around it, an epilogue."""
    lines, address = [f"0000000000000000 <{name}>:"], 0

    def put(text: str) -> int:
        nonlocal address
        lines.append(f"  {address:4x}:\t{text}")
        address += 4
        return address - 4

    for text in before:
        put(text)
    outer = put("mov    (%rdi),%r8")
    first = put(step[0])
    for text in step[1:]:
        put(text)
    put(f"jne    {first:x} <{name}+{first:#x}>")
    put("add    $0x8,%rdi")
    put(f"jne    {outer:x} <{name}+{outer:#x}>")
    put("vmovups %zmm4,(%rbx)")
    put("ret")
    return [*lines, ""]


def loop_of(lines: list[str]) -> loops.Loop:
    ((_, body),) = loops.functions(iter(lines))
    loop = loops.main_loop(body)
    assert loop is not None
    return loop


def test_main_loop_is_the_inner_one() -> None:
    assert loop_of(listing(STEP)) == loops.Loop(12, 4, 4, 0, 0, 0, address=8, prefetches=1)


def test_missing_prefetches_are_found() -> None:
    bare = listing([s for s in STEP if not s.startswith("prefetch")])
    assert "fetches 0 lines" in check_loops.check("avx512", bare, {}, fetches=True)[0][0]
    assert check_loops.check("avx512", bare, {}) == ([], 1)
    assert check_loops.check("avx512", listing(STEP), {}, fetches=True) == ([], 1)


def avx2(steps: int) -> list[str]:
    """An iteration of a 2x2 tile of AVX2."""
    step = [s.replace("zmm", "ymm") for s in STEP]
    return [s for _ in range(steps) for s in (*step[:2], *step[3:9])] + step[9:]


def test_unrolled_tiles_fetch_once_an_iteration() -> None:
    name = NAME.replace("avx512", "avx2")
    fetch = ["prefetcht1 (%rdx)"]
    for fetches, found in ((0, "fetches 0 lines"), (1, "fetches 1 lines ahead, not 2 in 4 steps")):
        few = listing([*avx2(4), *fetch * fetches], name)
        assert found in check_loops.check("avx2", few, {}, fetches=True)[0][0]
    assert check_loops.check("avx2", listing([*avx2(4), *fetch * 2], name), {}, fetches=True) == ([], 1)


def tall(level: str, *more: str) -> list[str]:
    """Problems of a 12x1 tile of four steps an iteration with `more` instructions."""
    step = ["vmovups (%rax),%ymm0"]
    for row in range(1, 13):
        step += ["vbroadcastss (%r8,%rcx,4),%ymm13", f"vfmadd231ps %ymm13,%ymm0,%ymm{row}"]
    name = NAME.replace("avx512", level).replace("2, 2", "12, 1")
    return check_loops.check(level, listing([*step * 4, *more, "inc    %rcx"], name), {})[0]


def test_where_to_fetch_may_lie_in_memory() -> None:
    """Of twelve rows, whose pointers take most registers, where iterations have several steps. Nothing else may."""
    spill = "mov    %rdx,0x8(%rsp)"
    assert tall("avx2", spill) == []
    assert "stores 2 values" in tall("avx2", spill, spill)[0]
    assert "reloads 1 vectors" in tall("avx2", "vmovups 0x40(%rsp),%ymm6")[0]
    assert "stores 1 values" in tall("avx512", spill)[0]


def test_memory_operands_are_reads() -> None:
    step = [s.replace("%zmm2,%zmm1", "0x40(%rax),%zmm2") for s in STEP if s != STEP[1]]
    assert loop_of(listing(step)).reads == 5
    embedded = ["vfmadd231ps (%r9){1to16},%zmm0,%zmm6" if "%zmm6" in s else s for s in STEP]
    assert loop_of(listing(embedded)).reads == 5


@pytest.mark.parametrize("spill", ["vmovups %zmm6,0x40(%rsp)", "vmovaps %zmm6,-0x80(%rbp)", "mov    %rdx,(%rsp)",
                                   "vmovups %zmm6,(%rsp){%k1}", "vmovups %zmm6,0x8(%rsp,%rax,1)"])  # fmt: skip
def test_spills_are_found(spill: str) -> None:
    frame = ("push   %rbp", "mov    %rsp,%rbp")
    assert loop_of(listing([*STEP[:6], spill, *STEP[6:]], before=frame)).spills == 1
    found, count = check_loops.check("avx512", listing([*STEP[:6], spill, *STEP[6:]], before=frame), {})
    assert count == 1 and len(found) == 1 and "stores 1 values to the stack" in found[0]


def test_rbp_without_a_frame_is_an_ordinary_register() -> None:
    assert loop_of(listing([*STEP[:6], "vmovups %zmm6,(%rbp)", *STEP[6:]])).spills == 0


def test_reloads_are_found() -> None:
    step = [*STEP[:6], "vmovups 0x40(%rsp),%zmm6", "mov    0x8(%rsp),%r9", *STEP[6:]]
    loop = loop_of(listing(step))
    assert (loop.spills, loop.vector_reloads, loop.scalar_reloads, loop.reads) == (0, 1, 1, 5)
    assert "reloads 1 vectors" in check_loops.check("avx512", listing(step), {})[0][0]


def test_limits() -> None:
    lines = listing(STEP)
    assert check_loops.check("avx512", lines, {(2, 2): (12, 4)}) == ([], 1)
    assert "instructions" in check_loops.check("avx512", lines, {(2, 2): (10, 4)})[0][0]
    assert "reads" in check_loops.check("avx512", lines, {(2, 2): (12, 3)})[0][0]
    assert check_loops.check("avx512", lines, {(6, 4): (40, 10)})[0] == ["tile<6, 4> is missing"]
    assert check_loops.check("avx2", lines, {}) == ([], 0)


def test_unrolled_steps_count_each() -> None:
    assert check_loops.check("avx512", listing(STEP * 2), {(2, 2): (12, 4)}) == ([], 1)


def test_lost_fmas_are_found() -> None:
    assert "issues 3 FMAs" in check_loops.check("avx512", listing([s for s in STEP if "zmm7" not in s]), {})[0][0]
    mul = [s.replace("vfmadd231ps", "vmulps") for s in STEP]
    assert "no loop with FMAs" in check_loops.check("avx512", listing(mul), {})[0][0]


def test_wide_tiles_may_spill_what_does_not_fit() -> None:
    assert check_loops.problems("avx2", 3, 6, loops.Loop(35, 18, 25, 4, 4, 0, 0), None) == []
    assert check_loops.problems("avx2", 3, 6, loops.Loop(40, 18, 28, 7, 7, 0, 0), None) != []
    assert check_loops.problems("avx2", 6, 2, loops.Loop(28, 12, 9, 1, 1, 0, 0), None) != []


def test_counts() -> None:
    want = {"avx2": {"gemm": 1000, "pool": 500}}
    assert check_counts.compare({"avx2": {"gemm": 1019, "pool": 491}}, want, 0.02) == []
    (line,) = check_counts.compare({"avx2": {"gemm": 1021, "pool": 500}}, want, 0.02)
    assert line == "avx2 gemm: 1,021 instructions, +2.1% of the recorded 1,000"
    (line,) = check_counts.compare({"avx2": {"gemm": 979, "pool": 500}}, want, 0.02)
    assert "-2.1%" in line
    assert len(check_counts.compare({"avx2": {"gemm": 1000, "new": 1}}, want, 0.02)) == 2  # pool is gone, new is new


def test_counts_are_recorded_for_all_cases() -> None:
    import json

    recorded = json.loads(check_counts.RECORDED.read_text())["counts"]
    assert {level: tuple(counts) for level, counts in recorded.items()} == dict.fromkeys(
        check_counts.LEVELS, check_counts.CASES
    )  # fmt: skip
