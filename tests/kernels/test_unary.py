"""Unary functions: accuracy, limits, NaN, tails, row strides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, dense, run

PARAMETERS = {
    "clip": (-0.5, 6.0),
    "leaky_relu": (0.1, 0.0),
    "elu": (0.7, 0.0),
    "selu": (1.6732632, 1.0507010),
    "hard_sigmoid": (0.2, 0.5),
}
# Where a float32 argument of an exponential is itself rounded, the error grows with it; gelu's is split by FMA.
UNITS = {"gelu_tanh": 40, "gelu": 3, "mish": 2}
UNITS_WITHOUT_FMA = {**UNITS, "gelu": 12}


def act(func: str, alpha: float = 0.0, beta: float = 0.0) -> Any:
    return _core.Activation(func=getattr(_core.Func, func), alpha=alpha, beta=beta)


def apply(isa: Any, x: F32, func: str, alpha: float = 0.0, beta: float = 0.0) -> F32:
    desc = _core.Unary(rows=1, n=x.size, x_ld=x.size, y_ld=x.size, act=act(func, alpha, beta))
    return run(isa, desc, [(x[None], (x.size, 1))], (1, x.size), (x.size, 1)).reshape(-1)


def arguments(func: str) -> F32:
    """A dense grid of the interesting range, in both signs where the function has them, and magnitudes from 1e-30."""
    rng = np.random.default_rng(7)
    small = np.exp(rng.uniform(math.log(1e-30), 0, 800))
    ends = [0.8, 1.0, 2.0, 86.9, 88.7, 89.0]
    grid = np.concatenate([np.linspace(0, 12, 3001), small, rng.uniform(12, 80, 400), ends])
    if func in ("log", "sqrt"):
        return np.concatenate([grid, np.exp(rng.uniform(-87, 88, 800)), [1e-45, 1e-40, 3.4e38]]).astype(np.float32)
    return np.concatenate([grid, -grid]).astype(np.float32)


@pytest.mark.parametrize("func", list(reference.UNARY))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_accuracy(isa: Any, func: str) -> None:
    x = arguments(func)
    a, b = PARAMETERS.get(func, (0.0, 0.0))
    a, b = float(np.float32(a)), float(np.float32(b))
    want = reference.unary(x, func, a, b)
    with np.errstate(invalid="ignore"):
        want = np.where(np.abs(want) > 3.4028235e38, np.sign(want) * np.inf, want)
    tiny = 2e-38 * np.maximum(1, np.abs(x))  # below it, e^x and x e^x may flush
    want = np.where(np.abs(want) < tiny, 0, want)
    got = apply(isa, x, func, a, b)
    got = np.where(np.abs(got) < tiny, np.float32(0), got)
    without_fma = isa == _core.Isa.scalar
    units: Any = (UNITS_WITHOUT_FMA if without_fma else UNITS).get(func, 1)
    if func in ("sigmoid", "swish"):  # the rounding of log2(e), and without FMA that of the product with it
        units = units + np.abs(x.astype(np.float64)) / (6 if without_fma else 32)
    scale = 1.0 if func in ("hard_sigmoid", "hard_swish") else None  # sums that cancel
    close(got, want, terms=units**2, scale=scale, note=func)


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_limits(isa: Any) -> None:
    inf, nan = np.inf, np.nan
    expected = {
        "clip": (-0.5, 6.0), "leaky_relu": (-inf, inf), "elu": (-0.7, inf), "hard_sigmoid": (0, 1),
        "tanh": (-1, 1), "softplus": (0, inf), "exp": (0, inf), "log": (nan, inf), "sqrt": (nan, inf),
        "reciprocal": (0, 0), "erf": (-1, 1), "neg": (inf, -inf), "abs": (inf, inf), "floor": (-inf, inf),
        "ceil": (-inf, inf), "identity": (-inf, inf),
    }  # fmt: skip
    x = np.array([-inf, inf], np.float32)
    for func, want in expected.items():
        got = apply(isa, x, func, *PARAMETERS.get(func, (0.0, 0.0)))
        np.testing.assert_array_equal(got, np.array(want, np.float32), func)
    for func in ("gelu", "gelu_tanh", "swish", "mish", "hard_swish", "selu"):
        got = apply(isa, np.array([300.0, inf, -1000.0], np.float32), func, *PARAMETERS.get(func, (0.0, 0.0)))
        assert got[1] == inf, func
        assert got[0] == (np.float32(300 * 1.050701) if func == "selu" else 300), func
        np.testing.assert_allclose(
            got[2], -1.6732632 * 1.0507010 if func == "selu" else 0, rtol=1e-6, atol=2e-36, err_msg=func
        )
    np.testing.assert_allclose(apply(isa, x, "sigmoid"), (0, 1), rtol=0, atol=1.3e-38)
    np.testing.assert_array_equal(apply(isa, np.array([0.0, -0.0], np.float32), "log"), [-inf, -inf])
    np.testing.assert_array_equal(apply(isa, np.array([0.0, -200.0, 200.0], np.float32), "exp"), [1, 0, inf])


@pytest.mark.parametrize("func", list(reference.UNARY))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_nan_propagates(isa: Any, func: str) -> None:
    """Whatever is in its other bits, which a kernel that computes with exponents could carry into the result."""
    for bits in (0x7FC00000, 0x7F800001, 0x7FC00001, 0x7FC00081, 0x7FC00155, 0x7FFFFFFF):
        x = np.full(37, bits, np.uint32).view(np.float32)
        x[::2] = 1.0
        got = apply(isa, x, func, *PARAMETERS.get(func, (0.0, 0.0)))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(x))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_rows_and_tails(isa: Any) -> None:
    rng = np.random.default_rng(1)
    V = _core.vector_length(isa)
    for n in [*cases.channels(V), 4 * V, 0]:
        for rows in (1, 5, 0):
            for x_ld, y_ld in ((n, n), (n + 3, n + 1)):
                x = rng.standard_normal((rows, n), np.float32)
                for func in ("clip", "swish"):
                    desc = _core.Unary(rows=rows, n=n, x_ld=x_ld, y_ld=y_ld, act=act(func, 0.0, math.inf))
                    got = run(isa, desc, [(x, (x_ld, 1))], (rows, n), (y_ld, 1))
                    close(got, reference.unary(x, func, 0.0, math.inf), note=(n, rows, x_ld, func))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_in_place(isa: Any) -> None:
    x = np.linspace(-3, 3, 101, dtype=np.float32)
    y = x.copy()
    _core.run_kernel(isa, _core.Unary(rows=1, n=101, x_ld=101, y_ld=101, act=act("tanh")), [y], y)
    close(y, np.tanh(x.astype(np.float64)))


def test_rejects() -> None:
    isa, x = LEVELS[0], np.zeros(8, np.float32)
    desc = _core.Unary(rows=2, n=4, x_ld=4, y_ld=4)
    for bad, message in (
        (_core.Unary(rows=2, n=4, x_ld=4, y_ld=3), "overlap"),
        (_core.Unary(rows=-1, n=4, x_ld=4, y_ld=4), "got -1"),
        (_core.Unary(rows=1 << 62, n=4, x_ld=4, y_ld=4), "must be from"),
        (_core.Unary(rows=1 << 39, n=4, x_ld=1 << 39, y_ld=4), "reaches beyond"),
        (_core.Unary(rows=2, n=5, x_ld=5, y_ld=5), "has 8 elements, the kernel needs 10"),
    ):
        with pytest.raises(ValueError, match=message):
            _core.run_kernel(isa, bad, [x], x.copy())
    with pytest.raises(ValueError, match="missing"):
        _core.run_kernel(isa, desc, [None], x.copy())
    with pytest.raises(ValueError, match="chunks"):
        _core.run_kernel(isa, desc, [x], x.copy(), chunks=(0, 2))
    with pytest.raises(TypeError, match="float32"):
        _core.run_kernel(isa, desc, [x.astype(np.float64)], x.copy())
    with pytest.raises(TypeError, match="no field 'row'"):
        _core.Unary(row=3)
    with pytest.raises(TypeError, match="rows cannot be"):
        _core.Unary(rows="3")
    with pytest.raises(ValueError, match="read-only"):
        frozen = x.copy()
        frozen.setflags(write=False)
        _core.run_kernel(isa, desc, [x], frozen)
    assert dense((2, 4)) == (4, 1)
