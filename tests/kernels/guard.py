"""Runs one kernel on arrays that end, or start, at memory that may not be touched.

An access beyond an array kills the process, which no one can miss. Gaps of strided arrays hold NaN: reading them shows
in the result, writing them is checked. Outputs start as NaN. Every run is repeated in single chunks, last one first.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import _core

from .emulated import levels

F32 = npt.NDArray[np.float32]
LEVELS = levels()
EPS = float(np.finfo(np.float32).eps)

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(size: int, side: str) -> F32:
    """float32[size] filled with NaN; side "end": the next byte faults, side "start": the byte before does."""
    pages = max(1, -(-size * 4 // _PAGE))
    memory = mmap.mmap(-1, (pages + 2) * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, pages + 1):
        if _libc.mprotect(address + page * _PAGE, _PAGE, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    first = _PAGE if side == "start" else (pages + 1) * _PAGE - 4 * size
    array = np.frombuffer(memory, np.float32, size, first)
    array[:] = np.nan
    return array


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    return 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def view(flat: F32, shape: Sequence[int], strides: Sequence[int]) -> F32:
    return np.lib.stride_tricks.as_strided(flat, tuple(shape), tuple(4 * s for s in strides))


def dense(shape: Sequence[int], ld: int | None = None) -> tuple[int, ...]:
    """Strides of an array whose rows (last axis) are `ld` elements apart."""
    strides, step = [1], shape[-1] if ld is None else ld
    for n in reversed(shape[1:-1]):
        strides.append(step)
        step *= n
    return tuple(reversed([*strides, step])) if len(shape) > 1 else (1,)


def run(
    isa: Any,
    desc: Any,
    inputs: Sequence[tuple[npt.NDArray[Any], Sequence[int]]],
    shape: Sequence[int],
    strides: Sequence[int],
    *,
    op: Any = None,
    chunks: int = 3,
) -> F32:
    """The kernel's output as an array of `shape`.

    inputs are (array, element strides); the output's strides are `strides`. Checks that the sizes which `extent` asks
    for are these, that no gap is written, that inputs do not change, and that chunks can run in any order.
    """
    want_in, want_out = _core.extent(desc, isa)
    assert want_out == extent(shape, strides)
    results = []
    for side in ("end", "start"):
        flats = []
        for i, (array, in_strides) in enumerate(inputs):
            size = extent(array.shape, in_strides)
            assert want_in[i] == size
            flat = guarded(size, side)
            if size:
                view(flat, array.shape, in_strides)[...] = array
            flats.append(flat)
        before = [f.copy() for f in flats]
        out = guarded(want_out, side)
        if side == "end":
            _core.run_kernel(isa, desc, flats, out, op=op)
        else:
            desc.chunks = chunks
            for i in reversed(range(chunks)):
                _core.run_kernel(isa, desc, flats, out, chunks=(i, i + 1), op=op)
            desc.chunks = 0
        for old, new in zip(before, flats, strict=True):
            np.testing.assert_array_equal(new.view(np.int32), old.view(np.int32), "an input changed")
        result = view(out, shape, strides).copy() if out.size else np.empty(tuple(shape), np.float32)
        if out.size:
            view(out, shape, strides)[...] = np.nan
            assert np.isnan(out).all(), "wrote between the rows of the output"
        results.append(result)
    np.testing.assert_array_equal(results[0].view(np.int32), results[1].view(np.int32), "chunks change the result")
    return results[0]


def close(got: F32, want: npt.NDArray[Any], *, terms: Any = 1, scale: float | None = None, note: object = "") -> None:
    """|got - want| <= 4 eps sqrt(terms) max(|want|, scale); scale: the size of what was summed, default none."""
    assert got.shape == want.shape
    bound = 4 * EPS * np.sqrt(terms) * np.maximum(np.abs(want), scale or 0.0) + 1e-37
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        bad = ~same & ~(np.abs(got - want) <= bound)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(f"{note}: {bad.sum()} of {bad.size} differ, first at {at}: {got[at]!r} for {want[at]!r}")


def random(rng: np.random.Generator, *shape: int) -> F32:
    return rng.standard_normal(shape, np.float32)
