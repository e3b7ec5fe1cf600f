"""Optimizer steps, moving averages, squared norms and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core

from . import backward
from .backward import Out, packed
from .guard import LEVELS, close, random

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
SIZES = (0, 1, 3, 17, 64, 1000, 30001)


def f(x: float) -> float:
    return float(np.float32(x))


def wide(*arrays: Any) -> list[Any]:
    return [a.astype(np.float64) for a in arrays]


def started(array: Any) -> Out:
    return Out(array.shape, packed(*array.shape).strides, array)


@isas
@pytest.mark.parametrize("momentum", (0.0, 0.9))
@pytest.mark.parametrize("nesterov", (0, 1))
@pytest.mark.parametrize("decay", (0.0, 0.01))
def test_sgd(isa: Any, momentum: float, nesterov: int, decay: float) -> None:
    rng = np.random.default_rng(71)
    momentum, decay, lr, clip, l2 = f(momentum), f(decay), f(0.05), f(0.5), f(0.02)
    for n in SIZES:
        w, g, v = random(rng, n), random(rng, n), random(rng, n)
        desc = _core.Optimizer(n=n, momentum=momentum, nesterov=nesterov, weight_decay=decay, l2=l2)
        outs = [started(w), started(v)] if momentum else [started(w)]
        hyper, factor = np.array([lr, 3], np.float32), np.array([clip], np.float32)
        got = backward.run(isa, "sgd", desc, [g, hyper, factor], *outs)
        w, g, v = wide(w, g, v)
        g = clip * g + l2 * w
        w = w - lr * decay * w
        step = momentum * v - lr * g
        close(
            got[0], w + (momentum * step - lr * g if momentum and nesterov else step if momentum else -lr * g), scale=4
        )
        if momentum:
            close(got[1], step, scale=4)


@isas
@pytest.mark.parametrize("exact", (0, 1))
@pytest.mark.parametrize("step", (1, 7, 100000))
def test_adam(isa: Any, exact: int, step: int) -> None:
    rng = np.random.default_rng(72)
    b1, b2, lr, eps, decay = f(0.9), f(0.999), f(0.01), f(1e-7), f(0.1)
    for n in SIZES:
        w, g, m, v = random(rng, n), random(rng, n), random(rng, n), np.abs(random(rng, n))
        desc = _core.Optimizer(n=n, beta1=b1, beta2=b2, epsilon=eps, weight_decay=decay, exact=exact)
        hyper = np.array([lr, step], np.float32)
        got = backward.run(isa, "adam", desc, [g, hyper, None], started(w), started(m), started(v))
        w, g, m, v = wide(w, g, m, v)
        m, v = m + (g - m) * (1 - b1), v + (g * g - v) * (1 - b2)
        c1, c2 = 1 - b1**step, 1 - b2**step
        w = w - lr * decay * w
        w -= lr / c1 * m / (np.sqrt(v / c2) + eps) if exact else lr * np.sqrt(c2) / c1 * m / (np.sqrt(v) + eps)
        for a, b in zip(got, (w, m, v), strict=True):
            close(a, b, scale=4)


@isas
@pytest.mark.parametrize("momentum", (0.0, 0.9))
def test_rmsprop(isa: Any, momentum: float) -> None:
    rng = np.random.default_rng(73)
    rho, momentum, lr, eps = f(0.9), f(momentum), f(0.01), f(1e-7)
    for n in SIZES:
        w, g, s, v = random(rng, n), random(rng, n), np.abs(random(rng, n)), random(rng, n)
        desc = _core.Optimizer(n=n, beta2=rho, momentum=momentum, epsilon=eps)
        outs = [started(w), started(s), *([started(v)] if momentum else [])]
        got = backward.run(isa, "rmsprop", desc, [g, np.array([lr, 1], np.float32), None], *outs)
        w, g, s, v = wide(w, g, s, v)
        s = s + (g * g - s) * (1 - rho)
        v = momentum * v + lr * g / np.sqrt(s + eps)
        for a, b in zip(got, (w - v if momentum else w - lr * g / np.sqrt(s + eps), s, v), strict=False):
            close(a, b, scale=4)


@isas
def test_moving_average_and_norm(isa: Any) -> None:
    rng = np.random.default_rng(74)
    for n in SIZES:
        state, x = random(rng, n), random(rng, n)
        desc = _core.MovingAverage(n=n, momentum=0.99, scale=1.25)
        (got,) = backward.run(isa, "moving_average", desc, [x], started(state))
        s, v = wide(state, x)
        close(got, f(0.99) * s + (1 - f(0.99)) * 1.25 * v, scale=4)
        norm = _core.SquaredNorm(n=n)
        (sums,) = backward.run(isa, "squared_norm", norm, [x], packed(_core.extent(norm, isa)[1]))
        np.testing.assert_allclose(sums.astype(np.float64).sum(), (v * v).sum(), rtol=1e-5)


@isas
def test_dropout(isa: Any) -> None:
    rng = np.random.default_rng(75)
    rows, n = 60, 333
    x, seed = random(rng, rows, n), np.array([12345], np.float32)
    x[x == 0] = 1
    for rate in (0.0, 0.3, 0.5, 0.9):
        desc = _core.Dropout(rows=rows, n=n, x_ld=n + 1, y_ld=n + 2, rate=rate)
        (y,) = backward.run(isa, "dropout", desc, [(x, (n + 1, 1)), seed], Out((rows, n), (n + 2, 1)))
        kept = y != 0
        assert abs(kept.mean() - (1 - rate)) < 4 * np.sqrt(0.25 / x.size)
        np.testing.assert_allclose(y[kept], x[kept] / (1 - f(rate)), rtol=1e-6)
        # neighbours, rows and seeds are independent
        dense_desc = _core.Dropout(rows=rows, n=n, x_ld=n, y_ld=n, rate=rate)
        (same,) = backward.run(isa, "dropout", dense_desc, [x, seed], packed(rows, n))
        np.testing.assert_array_equal(same != 0, kept)
        (other,) = backward.run(isa, "dropout", dense_desc, [x, seed + 1], packed(rows, n))
        if rate:
            for a, b in ((kept[:, 1:], kept[:, :-1]), (kept[1:], kept[:-1]), (kept, other != 0)):
                assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03


def test_levels_drop_the_same_elements() -> None:
    x = np.ones((7, 100), np.float32)
    desc = _core.Dropout(rows=7, n=100, x_ld=100, y_ld=100, rate=0.4)
    got = [backward.run(isa, "dropout", desc, [x, np.array([7.0], np.float32)], packed(7, 100))[0] for isa in LEVELS]
    for y in got[1:]:
        np.testing.assert_array_equal(y, got[0])


def test_rejects() -> None:
    x = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="rate"):
        _core.run_kernel(LEVELS[0], _core.Dropout(rows=1, n=4, x_ld=4, y_ld=4, rate=1.0), [x, x], x.copy())
    with pytest.raises(ValueError, match="more"):
        _core.run_kernel(LEVELS[0], _core.Optimizer(n=4), [x, x], x.copy(), op=_core.Op.adam)
