"""Runs kernels with several outputs, or outputs that start with contents; see guard.py for what is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv import _core

from .guard import F32, extent, guarded, view


@dataclass(frozen=True)
class Out:
    """An output: its shape and element strides, and what it holds before (None: NaN)."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    before: npt.NDArray[Any] | None = None


def packed(*shape: int) -> Out:
    """A dense output."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return Out(shape, tuple(reversed(strides)))


def _buffer(size: int, side: str, shape: Sequence[int], strides: Sequence[int], array: Any) -> F32:
    assert size == extent(shape, strides), (size, tuple(shape), tuple(strides))
    flat = guarded(size, side)
    if array is not None and size:
        view(flat, shape, strides)[...] = array
    return flat


def run(
    isa: Any,
    op: str,
    desc: Any,
    inputs: Sequence[tuple[npt.NDArray[Any], Sequence[int]] | npt.NDArray[Any] | None],
    *outs: Out,
) -> list[F32]:
    """The outputs of kernel `op`; inputs are dense arrays, (array, element strides), or None.

    Buffers have exactly the sizes that `extent` asks for; they end, then start, at memory that may not be touched. The
    second run computes single chunks, last one first, and must give the same bits.
    """
    kernel = getattr(_core.Op, op)
    want_in, want_out = _core.extent(desc, isa, kernel)
    wanted = [want_out, *_core.extent_more(desc, isa, kernel)]
    _core.prepare(desc, isa, kernel)
    results: list[list[F32]] = []
    for side in ("end", "start"):
        flats: list[F32 | None] = []
        for i, given in enumerate(inputs):
            if given is None:
                flats.append(None)
                continue
            array, strides = given if isinstance(given, tuple) else (given, packed(*given.shape).strides)
            flats.append(_buffer(want_in[i], side, array.shape, strides, array))
        before = [None if f is None else f.copy() for f in flats]
        made = [_buffer(n, side, o.shape, o.strides, o.before) for n, o in zip(wanted, outs, strict=False)]
        assert all(n == 0 for n in wanted[len(outs) :]), wanted
        pieces = [(0, desc.chunks)] if side == "end" else [(i, i + 1) for i in reversed(range(desc.chunks))]
        for piece in pieces:
            _core.run_kernel(isa, desc, flats, made[0], chunks=piece, op=kernel, more=made[1:])
        for old, new in zip(before, flats, strict=True):
            if old is not None and new is not None:
                np.testing.assert_array_equal(new.view(np.int32), old.view(np.int32), "an input changed")
        results.append([])
        for flat, o in zip(made, outs, strict=True):
            results[-1].append(view(flat, o.shape, o.strides).copy() if flat.size else np.empty(o.shape, np.float32))
            if flat.size:
                view(flat, o.shape, o.strides)[...] = np.nan
                assert np.isnan(flat).all(), "wrote between the rows of an output"
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32), "chunks change the result")
    return results[0]
