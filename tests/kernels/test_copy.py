"""Copies between any two layouts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, dense, random, run


def apply(isa: Any, x: F32, x_strides: Sequence[int], y_strides: Sequence[int]) -> F32:
    desc = _core.Copy(rank=x.ndim, dims=x.shape, x_stride=x_strides, y_stride=y_strides)
    return run(isa, desc, [(x, x_strides)], x.shape, y_strides, chunks=5)


def transposed(shape: Sequence[int], perm: Sequence[int], gap: int = 0) -> list[int]:
    """Strides of an array of `shape` that is dense (rows `gap` apart) after transposing it by perm."""
    inner = dense([shape[i] for i in perm], shape[perm[-1]] + gap)
    return [inner[list(perm).index(i)] for i in range(len(shape))]


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_every_permutation(isa: Any) -> None:
    rng = np.random.default_rng(15)
    for shape in ((2, 3, 5, 7), (1, 17, 2, 19), (3, 4, 33, 6), (2, 1, 1, 40)):
        x = random(rng, *shape)
        for perm in itertools.permutations(range(4)):
            np.testing.assert_array_equal(apply(isa, x, dense(shape), transposed(shape, perm)), x, f"{shape} {perm}")
            np.testing.assert_array_equal(apply(isa, x, transposed(shape, perm), dense(shape)), x, f"{shape} {perm}")


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_layout_changes(isa: Any) -> None:
    """N C HW to N HW C and back, also into and out of wider pixels; sizes around tiles of 64 and of 2048."""
    rng = np.random.default_rng(16)
    V = _core.vector_length(isa)
    for c in sorted({1, 2, 3, 4, 5, *cases.channels(V), 64, 65}):
        for hw in (1, 5, V, 64, 67, 2049):
            for gap in (0, 3):
                x = random(rng, 2, c, hw)
                planes, pixels = dense(x.shape), transposed(x.shape, (0, 2, 1), gap)
                np.testing.assert_array_equal(apply(isa, x, planes, pixels), x, f"to pixels {c} {hw} {gap}")
                np.testing.assert_array_equal(apply(isa, x, pixels, planes), x, f"to planes {c} {hw} {gap}")


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_slices_broadcasts_shuffles(isa: Any) -> None:
    rng = np.random.default_rng(17)
    x = random(rng, 6, 7, 24)
    for xs, ys in (
        (dense(x.shape, 40), dense(x.shape)),  # a slice of channels
        (dense(x.shape), dense(x.shape, 40)),  # into a concatenation
        ((336, 48, 2), dense(x.shape)),  # every other channel
        (dense(x.shape), (336, 48, 2)),
    ):
        np.testing.assert_array_equal(apply(isa, x, xs, ys), x)
    row = random(rng, 1, 1, 24)
    for shape, strides in (((5, 6, 24), (0, 0, 1)), ((24, 5, 6), (1, 0, 0)), ((5, 24, 6), (0, 1, 0))):
        desc = _core.Copy(rank=3, dims=shape, x_stride=strides, y_stride=dense(shape))
        flat = np.ascontiguousarray(row.ravel())
        out = np.full(shape, np.nan, np.float32)
        _core.run_kernel(isa, desc, [flat], out)
        at = [1, 1, 1]
        at[strides.index(1)] = 24
        np.testing.assert_array_equal(out, np.broadcast_to(flat.reshape(at), shape))
    shuffle = random(rng, 30, 2, 29)  # channel shuffle: [pixels, groups, C] to [pixels, C, groups]
    got = apply(isa, shuffle, dense(shuffle.shape), transposed(shuffle.shape, (0, 2, 1)))
    np.testing.assert_array_equal(got.transpose(0, 2, 1), reference.copy(shuffle, (0, 2, 1)))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_ranks(isa: Any) -> None:
    rng = np.random.default_rng(18)
    for shape in ((), (1,), (9001,), (2, 1, 3, 1, 2, 2, 1, 3), (2, 3, 2, 3, 2, 3, 2, 3), (0,), (3, 0, 2)):
        x = random(rng, *shape)
        strides = dense(shape) if shape else ()
        np.testing.assert_array_equal(apply(isa, x, strides, strides), x)
    shape = (2, 3, 2, 3, 2, 3, 2, 3)
    x = random(rng, *shape)
    for perm in ((7, 6, 5, 4, 3, 2, 1, 0), (1, 0, 3, 2, 5, 4, 7, 6)):
        np.testing.assert_array_equal(apply(isa, x, dense(shape), transposed(shape, perm)), x)


def test_rejects() -> None:
    x = np.zeros(16, np.float32)
    for kw in ({"rank": 9}, {"dims": (4, -1)}, {"y_stride": (1, 1)}, {"x_stride": (-4, 1)}, {"y_stride": (4, 0)}):
        desc = _core.Copy(**{"rank": 2, "dims": (4, 4), "x_stride": (4, 1), "y_stride": (4, 1), **kw})
        with pytest.raises(ValueError, match="copy"):
            _core.run_kernel(LEVELS[0], desc, [x], x.copy())
