"""Mean, sum and maximum over one axis of [outer, n, inner]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import EPS, F32, LEVELS, close, random, run


def apply(isa: Any, x: F32, func: str, *, gap: int = 0) -> F32:
    outer, n, inner = x.shape
    strides = (n * (inner + gap) + gap, inner + gap, 1)
    desc = _core.Reduce(
        outer=outer, n=n, inner=inner, x_outer=strides[0], x_n=strides[1], y_outer=inner + gap,
        func=getattr(_core.ReduceFunc, func),
    )  # fmt: skip
    return run(isa, desc, [(x, strides)], (outer, inner), (inner + gap, 1))


@pytest.mark.parametrize("func", ("mean", "sum", "max", "min"))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_reduce(isa: Any, func: str) -> None:
    rng = np.random.default_rng(9)
    V = _core.vector_length(isa)
    for outer in (1, 3):
        for n in (1, 2, 63, 65, 200):
            for inner in [*cases.channels(V), 11 * V + 1]:
                for gap in (0, 2):
                    x = random(rng, outer, n, inner)
                    want = reference.reduce(x, (1,), func)
                    scale = 1.0 if func == "mean" else float(n) if func == "sum" else 0.0
                    close(apply(isa, x, func, gap=gap), want, scale=scale, note=(outer, n, inner, gap))


@pytest.mark.parametrize("func", ("arg_max", "arg_min", "last_arg_max", "last_arg_min"))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_arg(isa: Any, func: str) -> None:
    rng = np.random.default_rng(12)
    V = _core.vector_length(isa)
    for n in (1, 2, 7, 40):
        for inner in cases.channels(V):
            for gap in (0, 2):
                x = np.round(2 * random(rng, 3, n, inner))  # with equal ones
                np.testing.assert_array_equal(apply(isa, x, func, gap=gap), reference.arg(x, func), f"{n} {inner}")


@pytest.mark.parametrize("inner", (1, 5))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_nan_is_no_extreme(isa: Any, inner: int) -> None:
    x = np.full((1, 4, inner), np.nan, np.float32)
    assert not apply(isa, x, "arg_max").any()
    x[0, 2] = -np.inf
    x[0, 3] = -1.0
    np.testing.assert_array_equal(apply(isa, x, "arg_max"), np.full((1, inner), 3.0))
    np.testing.assert_array_equal(apply(isa, x, "arg_min"), np.full((1, inner), 2.0))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_long_rows(isa: Any) -> None:
    rng = np.random.default_rng(10)
    for n in (5, 64, 1000, 12544, 70001):
        x = random(rng, 2, n, 1)
        close(apply(isa, x, "mean"), reference.reduce(x, (1,), "mean"), scale=1.0, note=n)
        np.testing.assert_array_equal(apply(isa, x, "max"), x.max(1))


@pytest.mark.parametrize("inner", (1, 64))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_mean_of_many_pixels_is_accurate(isa: Any, inner: int) -> None:
    """Plain float32 summation of 112 x 112 values loses up to 1e-4; block sums lose a few units."""
    x = np.random.default_rng(11).uniform(0, 1, (1, 112 * 112, inner)).astype(np.float32)
    want = reference.reduce(x, (1,), "mean")
    assert np.abs(apply(isa, x, "mean") / want - 1).max() < 6 * EPS


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_special_values(isa: Any) -> None:
    for inner in (1, 7):
        for n in (9, 200):
            for position in (0, 3, n - 1):
                x = np.zeros((1, n, inner), np.float32)
                x[0, position] = np.nan
                for func in ("mean", "sum", "max"):
                    assert np.isnan(apply(isa, x, func)).all(), (inner, n, position, func)
                x[0, position] = -np.inf
                assert (apply(isa, x, "max") == 0).all() and np.isneginf(apply(isa, x, "sum")).all()
        empty = np.zeros((2, 0, inner), np.float32)
        assert (apply(isa, empty, "sum") == 0).all() and np.isneginf(apply(isa, empty, "max")).all()
        assert np.isnan(apply(isa, empty, "mean")).all()
    assert apply(isa, np.zeros((0, 4, 3), np.float32), "mean").shape == (0, 3)


def test_rejects() -> None:
    x = np.zeros(16, np.float32)
    for kw in ({"n": -1}, {"outer": 1 << 41}, {"y_outer": 3}, {"inner": 1 << 39, "x_n": 1 << 39}):
        desc = _core.Reduce(**{"outer": 2, "n": 2, "inner": 4, "x_outer": 8, "x_n": 4, "y_outer": 4, **kw})
        with pytest.raises(ValueError, match="reduce"):
            _core.run_kernel(LEVELS[0], desc, [x], x.copy())
