"""The emulator finds what it promises to find, and ptx.cuh's twins compute what the instructions do."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastconv.cuda import weights

from . import emulator

# What each faulty kernel of probe.cu must be told; None: it is right.
FINDINGS = {
    "right": None,
    "beyond_global": "write of 4 bytes outside an allocation",
    "before_global": "read of 4 bytes outside an allocation",
    "beyond_shared": "write of 4 bytes at byte 256 of 256 bytes of shared memory",
    "unwritten_shared": "read of byte 0 of shared memory, which nobody wrote",
    "no_barrier": "which nobody wrote",
    "no_barrier_in_warp": "which nobody wrote",
    "warp_barrier": None,
    "warp_barrier_across": "nobody wrote",
    "read_then_write": "race in shared memory",
    "two_writers": "overwrites what thread",
    "two_blocks": "overwrites what thread",
    "in_place_shift": "reads what thread",
    "copy_without_wait": None,  # stale bytes, which a comparison shows
    "copy_never_waited": "a thread ends before its asynchronous copies",
    "vector_unaligned": "access of 16 bytes at an unaligned address",
    "vector_unaligned_write": "access of 16 bytes at an unaligned address",
    "copy_unaligned": "unaligned address",
    "lanes_apart": "lanes of a warp meet in different operations",
    "waits_for_ever": "deadlock",
}


@pytest.fixture(scope="module")
def probe() -> Any:
    library = ctypes.CDLL(str(emulator.build("probe", [Path(__file__).parent / "probe.cu"])))
    library.probe.restype = ctypes.c_char_p
    return library


def test_findings(probe: Any) -> None:
    seen = set()
    for i in range(100):
        found = ctypes.create_string_buffer(2000)
        name = probe.probe(i, found, 2000)
        if name is None:
            break
        text, want = found.value.decode(), FINDINGS[name.decode()]
        seen.add(name.decode())
        if want is None:
            assert text == "", (name, text)
        else:
            assert re.search(want, text), (name, text)
    assert seen == set(FINDINGS)


def test_one_header_has_the_instructions() -> None:
    """Inline PTX is in ptx.cuh alone, and each of its functions has a twin."""
    cuda = emulator.ROOT / "csrc" / "cuda"
    inline = re.compile(r"\basm\b")
    assert [p.name for p in cuda.iterdir() if inline.search(p.read_text())] == ["ptx.cuh"]
    signature = r"(?:inline )?\w+ (\w+)(?:<\w+>)?\("
    mine = re.findall(rf"__device__ {signature}", (cuda / "ptx.cuh").read_text())
    twins = (Path(__file__).parent / "ptx_host.h").read_text().partition("}  // namespace host")[2]
    theirs = re.findall(rf"^{signature}", twins, re.MULTILINE)
    assert list(dict.fromkeys(mine)) == list(dict.fromkeys(theirs)) and len(set(mine)) > 25


def _address(x: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def test_mma(probe: Any) -> None:
    rng = np.random.default_rng(1)
    for kind, precision in enumerate(("fp16", "bf16", "tf32")):
        depth = 8 if precision == "tf32" else 16
        a, b = rng.standard_normal((16, depth), np.float32), rng.standard_normal((8, depth), np.float32)
        if precision == "tf32":
            sa, sb = weights.to_tf32(a), weights.to_tf32(b)
            want = sa.astype(np.float64) @ sb.T
            sb = sb + np.float32(0)  # the lower bits do not count:
            sb = (sb.view(np.uint32) | np.uint32(0xFFF)).view(np.float32)
        elif precision == "bf16":
            sa, sb = weights.to_bfloat16(a), weights.to_bfloat16(b)
            fa, fb = ((s.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for s in (sa, sb))
            want = fa @ fb.T
        else:
            sa, sb = a.astype(np.float16), b.astype(np.float16)
            want = sa.astype(np.float64) @ sb.astype(np.float64).T
        c = np.zeros((16, 8), np.float32)
        assert probe.probe_product(kind, _address(sa), _address(sb), _address(c)) == 0
        np.testing.assert_allclose(c, want, rtol=0, atol=1e-5)


def test_conversions(probe: Any) -> None:
    """To half and back as numpy does, to bfloat16 and tf32 as bits say; ties, overflow, denormals, specials."""
    rng = np.random.default_rng(2)
    x = np.concatenate([
        rng.standard_normal(500), rng.standard_normal(500) * 1e-6, 10.0 ** rng.uniform(-42, 38, 2000),
        [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.99, 65520, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 2049, 2051],
        np.arange(64) / 2048 + 1,
    ]).astype(np.float32)  # fmt: skip
    n = len(x)
    for kind, precision in enumerate(("fp16", "bf16", "tf32")):
        stored, back = np.zeros(n, np.uint32), np.zeros(n, np.float32)
        probe.probe_convert(kind, _address(x), _address(stored), _address(back), n)
        finite = ~np.isnan(x)
        with np.errstate(over="ignore"):
            if precision == "fp16":
                np.testing.assert_array_equal(back, x.astype(np.float16).astype(np.float32))
            elif precision == "bf16":
                np.testing.assert_array_equal(stored[finite], weights.to_bfloat16(x).astype(np.uint32)[finite])
            else:
                np.testing.assert_array_equal(back, weights.to_tf32(x))
        assert np.isnan(back[~finite]).all()


# What each faulty pipeline of probe_hopper.cu must be told.
PIPELINES = {
    "none": None,
    "no_wait_for_copies": "which no barrier has handed over",
    "no_wait_for_products": "which products may still read|products that go on may still read",
    "released_early": "overwrites what products that go on may still read",
    "uninitialised": "that nobody initialised",
    "announced_too_much": "deadlock",
    "ordinary_read": "read while it belongs to copies of tensors|nobody wrote",
    "tile_off": "an address that 1024 does not divide",
    "arrives_twice": "more arrivals at a barrier",
    "never_multiplied": "a thread ends before its products|deadlock",
    "written_early": "written while it belongs to copies of tensors",
}


@pytest.mark.parametrize("precision", ("fp16", "bf16", "tf32"))
def test_pipelines(precision: str) -> None:
    """Copies of tensors, barriers in shared memory and products of a warpgroup: the result, and each mistake."""
    library = ctypes.CDLL(str(emulator.build("probe_hopper", [Path(__file__).parent / "probe_hopper.cu"])))
    library.probe_hopper.restype = ctypes.c_char_p
    rng = np.random.default_rng(3)
    depth = 32 if precision == "tf32" else 64  # 128 bytes
    given = [weights.stored(rng.standard_normal((64, depth), np.float32), precision, multiplied=True) for _ in range(2)]
    a, b = given
    if precision == "bf16":
        a, b = ((x.astype(np.uint32) << 16).view(np.float32) for x in given)
    elif precision == "tf32":  # copies round to what `a` and `b` are
        given = [(x.view(np.uint32) + np.uint32(0xFFF)).view(np.float32) for x in given]
    kind = ("fp16", "bf16", "tf32").index(precision)
    seen = set()
    for i in range(100):
        found, c = ctypes.create_string_buffer(2000), np.zeros((64, 64), np.float32)
        name = library.probe_hopper(kind, i, _address(given[0]), _address(given[1]), _address(c), found, 2000)
        if name is None:
            break
        text, want = found.value.decode(), PIPELINES[name.decode()]
        seen.add(name.decode())
        if want is None:
            assert text == "", text
            np.testing.assert_allclose(c, 3 * a.astype(np.float64) @ b.astype(np.float64).T, rtol=0, atol=1e-4)
        else:
            assert re.search(want, text) and text, (name, text)
    assert seen == set(PIPELINES)
