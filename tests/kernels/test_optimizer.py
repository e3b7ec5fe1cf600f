"""Optimizer steps, moving averages, squared norms and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from fastconv.graph import Node
from tests.interpret_grad import update

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


def step(isa: Any, op: str, w: Any, g: Any, slots: Any, hyper: list[float], factor: float | None, **fields: int) -> Any:
    """(w, slots) after one step, and what the update node means in float64."""
    desc = _core.Optimizer(n=w.size, **fields)
    inputs = [g, np.array(hyper, np.float32), None if factor is None else np.array([factor], np.float32)]
    outs = [started(w)] if slots is None else [started(w), started(slots.reshape(-1))]
    got = backward.run(isa, op, desc, inputs, *outs)
    node = {"sgd": "Sgd", "adam": "Adam", "rmsprop": "RmsProp"}[op]
    attrs = {k: bool(v) for k, v in fields.items()}
    arrays = [None if a is None else a.astype(np.float64) for a in (w, g, slots, *inputs[1:])]
    update(Node(node, [], [], attrs), arrays)
    close(got[0], arrays[0], scale=4)
    if slots is not None:
        close(got[1].reshape(slots.shape), arrays[2], scale=4)


@isas
@pytest.mark.parametrize("momentum", (0, 1))
@pytest.mark.parametrize("nesterov", (0.0, 1.0))
@pytest.mark.parametrize("decays", (0, 1))
def test_sgd(isa: Any, momentum: int, nesterov: float, decays: int) -> None:
    rng = np.random.default_rng(71)
    for n in SIZES:
        slots = random(rng, 1, n) if momentum else None
        hyper = [0.05, 0.9, nesterov, 0.01]
        step(isa, "sgd", random(rng, n), random(rng, n), slots, hyper, 0.5, momentum=momentum, decays=decays)


@isas
@pytest.mark.parametrize("decays", (0, 1))
def test_adam(isa: Any, decays: int) -> None:
    rng = np.random.default_rng(72)
    for n in SIZES:
        slots = np.stack([random(rng, n), np.abs(random(rng, n))])
        for hyper in ([0.01, 0.1, 0.001, 1e-7, 0.1], [0.3, 0.5, 0.2, 1e-3, 0.5]):
            step(isa, "adam", random(rng, n), random(rng, n), slots, hyper, None, decays=decays)


@isas
@pytest.mark.parametrize("momentum", (0, 1))
@pytest.mark.parametrize("centered", (0, 1))
def test_rmsprop(isa: Any, momentum: int, centered: int) -> None:
    rng = np.random.default_rng(73)
    for n in SIZES:
        slots = [2 + np.abs(random(rng, n)), random(rng, n), 0.1 * random(rng, n)]
        used = np.stack([slots[0], *slots[1 : 1 + momentum], *slots[2 : 2 + centered]])
        hyper = [0.01, 0.1, 1e-5, 0.9, 0.1]
        step(isa, "rmsprop", random(rng, n), random(rng, n), used, hyper, 0.7, momentum=momentum, centered=centered,
             decays=1)  # fmt: skip


@isas
def test_moving_average_and_norm(isa: Any) -> None:
    rng = np.random.default_rng(74)
    for n in SIZES:
        state, x = random(rng, n), random(rng, n)
        desc = _core.MovingAverage(n=n, momentum=0.99)
        (got,) = backward.run(isa, "moving_average", desc, [x], started(state))
        s, v = wide(state, x)
        close(got, f(0.99) * s + (1 - f(0.99)) * v, scale=4)
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
        _core.run_kernel(LEVELS[0], _core.Optimizer(n=3), [x, np.zeros(5, np.float32)], x.copy(), op=_core.Op.adam)
