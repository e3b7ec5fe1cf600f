"""Gather and resize along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, dense, random, run


def apply(isa: Any, x: F32, index: F32, weight: F32 | None, gap: int = 0) -> F32:
    outer, n, rows, C = x.shape
    P, taps = index.shape
    xs, ys = dense(x.shape, C + gap), dense((outer, P, rows, C), C + gap)
    desc = _core.Resample(
        outer=outer, n=n, P=P, taps=taps, rows=rows, C=C, x_outer=xs[0], x_n=xs[1], x_row=xs[2], y_outer=ys[0],
        y_p=ys[1], y_row=ys[2],
    )  # fmt: skip
    operands = [(x, xs), (index, (taps, 1)), *([(weight, (taps, 1))] if weight is not None else [])]
    if weight is not None and taps == 1:
        desc.taps = 1
    return run(isa, desc, operands, (outer, P, rows, C), ys)


@pytest.mark.parametrize("gap", (0, 3))
@pytest.mark.parametrize("taps", (1, 2, 4, 9))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_resample(isa: Any, taps: int, gap: int) -> None:
    rng = np.random.default_rng(4)
    for C in cases.channels(_core.vector_length(isa)):
        for outer, n, P, rows in ((1, 5, 7, 3), (3, 1, 2, 1), (2, 6, 3, 4)):
            x = random(rng, outer, n, rows, C)
            index = rng.integers(0, n, (P, taps)).astype(np.float32)
            weight = random(rng, P, taps) if taps > 1 else None
            want = reference.resample(x, index, weight)
            got = apply(isa, x, index, weight, gap)
            if weight is None:
                np.testing.assert_array_equal(got, want)
            close(got, want, terms=taps, scale=2.0, note=(C, outer, n, P, rows))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_indices_stay_inside(isa: Any) -> None:
    """Whatever a file has for a table."""
    x = random(np.random.default_rng(5), 1, 4, 1, 5)
    index = np.array([[-3], [4], [np.nan], [1e30], [2.5]], np.float32)
    np.testing.assert_array_equal(apply(isa, x, index, None)[0, :, 0], x[0, [0, 3, 0, 3, 2], 0])


def test_weights_must_be_there_for_several_taps() -> None:
    x, index = np.zeros((1, 4, 1, 5), np.float32), np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match="input 2"):
        apply(LEVELS[0], x, index, None)
