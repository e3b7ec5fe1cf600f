"""Gradients of activations, from their input and from their output; softmax and cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference, reference_backward

from . import backward
from .backward import Out, packed
from .guard import EPS, LEVELS, close, dense, random
from .weighted import ACTIVATIONS

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
FROM_OUTPUT = ("clip", "leaky_relu", "elu", "selu", "sigmoid", "hard_sigmoid", "tanh", "exp", "sqrt", "reciprocal")
FUNCTIONS = {**ACTIVATIONS, **{n: (n, 0.0, 0.0) for n in ("trunc", "round", "sign", "round_half")}}


@isas
@pytest.mark.parametrize("name", FUNCTIONS)
def test_unary(isa: Any, name: str) -> None:
    func, alpha, beta = FUNCTIONS[name]
    a, b = float(np.float32(alpha)), float(np.float32(beta))
    act = _core.Activation(func=getattr(_core.Func, func), alpha=alpha, beta=beta)
    rng = np.random.default_rng(51)
    for rows, n, gap in ((1, 1000, 0), (3, _core.vector_length(isa) + 3, 2), (7, 1, 1), (2, 5000, 0)):
        x = 4 * random(rng, rows, n)
        if func in ("log", "sqrt", "reciprocal"):
            x = np.abs(x) + np.float32(0.1)
        g = random(rng, rows, n)
        slope = reference_backward.slope(func, a, b)
        for from_output in (False, True) if func in FROM_OUTPUT else (False,):
            v = reference.unary(x, func, alpha, beta).astype(np.float32) if from_output else x
            if from_output and func in ("clip", "leaky_relu"):
                v[v == 0] = 0.0  # no negative zero
            desc = _core.UnaryBackward(
                rows=rows, n=n, g_ld=n + gap, v_ld=n + 2 * gap, y_ld=n + 3 * gap, act=act, from_output=int(from_output)
            )
            inputs = [(g, (n + gap, 1)), (v, (n + 2 * gap, 1))]
            (got,) = backward.run(isa, "unary_backward", desc, inputs, Out((rows, n), (n + 3 * gap, 1)))
            want = g * slope(x.astype(np.float64))
            # beside relative errors those of 1 - y^2, y (1 - y) and so on, where y was rounded near its limits
            error = np.abs(got - want) - 16 * EPS * np.abs(want) - 4 * EPS * np.abs(g) * (1.0 + np.abs(x))
            assert (error <= 0).all(), (name, from_output, float(error.max()), x[error > 0][:3], got[error > 0][:3])


def test_needs_input() -> None:
    x = np.zeros(4, np.float32)
    desc = _core.UnaryBackward(rows=1, n=4, g_ld=4, v_ld=4, y_ld=4, act=_core.Activation(func=_core.Func.gelu),
                               from_output=1)  # fmt: skip
    with pytest.raises(ValueError, match="output"):
        _core.run_kernel(LEVELS[0], desc, [x, x], x.copy())


@isas
@pytest.mark.parametrize("log", (False, True))
def test_softmax(isa: Any, log: bool) -> None:
    rng = np.random.default_rng(52)
    V = _core.vector_length(isa)
    for outer, n, inner in [
        *((3, c, 1) for c in cases.channels(V)),
        (2, 1000, 1),
        (2, 5, V + 1),
        (1, 10, 40),
        (2, 3, 2),
    ]:
        x = 3 * random(rng, outer, n, inner)
        y = reference.softmax(x, 1, log).astype(np.float32)
        g = random(rng, outer, n, inner)
        strides = dense((outer, n, inner), inner)
        desc = _core.SoftmaxBackward(
            outer=outer, n=n, inner=inner, g_outer=n * inner, g_n=inner, y_outer=n * inner, y_n=inner,
            x_outer=n * inner, x_n=inner, log=int(log),
        )  # fmt: skip
        (got,) = backward.run(isa, "softmax_backward", desc, [(g, strides), (y, strides)], packed(outer, n, inner))
        rule = reference_backward.log_softmax if log else reference_backward.softmax
        want = rule(g.astype(np.float64), y.astype(np.float64), 1)
        close(got, want, terms=n, scale=float(np.abs(g).max()) * (np.sqrt(n) if log else 1.0) * 2, note=(n, inner))


@isas
@pytest.mark.parametrize("smoothing", (0.0, 0.1))
@pytest.mark.parametrize("one_hot", (True, False))
def test_cross_entropy(isa: Any, smoothing: float, one_hot: bool) -> None:
    rng = np.random.default_rng(53)
    smoothing = float(np.float32(smoothing))
    for M in (1, 7, 33):
        for K in [*cases.channels(_core.vector_length(isa)), 1000]:
            x = 5 * random(rng, M, K)
            if K > 2:
                x[0, 1] = 90.0  # exp of it is beyond float32
            classes = rng.integers(0, K, M)
            t = rng.dirichlet(np.ones(K), M).astype(np.float32)
            target = classes.astype(np.float32) if one_hot else t
            g = random(rng, M)
            desc = _core.SoftmaxCrossEntropy(
                M=M, K=K, x_ld=K + 1, t_ld=K + 2, dx_ld=K + 3, one_hot=int(one_hot), smoothing=smoothing
            )
            inputs: list[Any] = [(x, (K + 1, 1)), target if one_hot else (target, (K + 2, 1))]
            (loss,) = backward.run(isa, "softmax_cross_entropy", desc, inputs, packed(M))
            wide = x.astype(np.float64), target.astype(np.float64)
            want = reference_backward.cross_entropy_loss(*wide, smoothing)
            close(loss, want, terms=4, scale=float(np.abs(x).max()), note=(M, K))
            out = Out((M, K), (K + 3, 1))
            (dx,) = backward.run(isa, "softmax_cross_entropy_backward", desc, [g, *inputs], out)
            want = reference_backward.cross_entropy(g.astype(np.float64), *wide, smoothing)
            close(dx, want, terms=4, scale=2 * float(np.abs(g).max()), note=(M, K))
