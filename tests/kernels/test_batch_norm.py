"""Batch normalisation with the statistics of the batch; gradients of it and of the other normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference, reference_backward

from . import backward
from .backward import Out, packed
from .guard import EPS, F32, LEVELS, close, dense, random
from .test_lrn import PARAMETERS

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
EPSILON = float(np.float32(1e-3))


def shapes(V: int) -> list[tuple[int, int]]:
    return [*((r, c) for c in cases.channels(V) for r in (1, 2, 31, 33, 100)), (3000, 70), (784, 5 * V + 1), (40000, 3)]


def parts(isa: Any, desc: Any, op: str) -> Out:
    return packed(_core.extent(desc, isa, getattr(_core.Op, op))[1])


def forward(isa: Any, x: F32, scale: F32, shift: F32, gap: int) -> tuple[F32, F32, F32]:
    rows, C = x.shape
    desc = _core.BatchNorm(rows=rows, C=C, x_ld=C + gap, y_ld=C + 2 * gap, g_ld=C, epsilon=EPSILON)
    given = (x, (C + gap, 1))
    (sums,) = backward.run(isa, "batch_norm_stats", desc, [given], parts(isa, desc, "batch_norm_stats"))
    mean, var, factor = backward.run(isa, "batch_norm_finish", desc, [sums, scale], packed(C), packed(C), packed(C))
    out = Out((rows, C), (C + 2 * gap, 1))
    (y,) = backward.run(isa, "batch_norm_apply", desc, [given, mean, factor, shift], out)
    return y, mean, var


@isas
@pytest.mark.parametrize("gap", (0, 3))
def test_batch_norm(isa: Any, gap: int) -> None:
    rng = np.random.default_rng(61)
    for rows, C in shapes(_core.vector_length(isa)):
        # means far from zero: a sum of squares would cancel
        x = random(rng, rows, C) * np.float32(0.5) + 20 * random(rng, C)
        scale, shift = random(rng, C), random(rng, C)
        y, mean, var = forward(isa, x, scale, shift, gap)
        wide = x.astype(np.float64)
        close(mean, wide.mean(axis=0), terms=4, scale=60.0)
        np.testing.assert_allclose(var, wide.var(axis=0), rtol=2e-5, atol=1e-9)
        z = (wide - wide.mean(axis=0)) / np.sqrt(wide.var(axis=0) + EPSILON)
        # the mean is rounded to float32: that much of |x| reaches y by the factor scale / sigma
        bound = 8 * EPS * (np.abs(x).max(axis=0) / np.sqrt(wide.var(axis=0) + EPSILON) * np.abs(scale) + np.abs(y) + 1)
        assert (np.abs(y - (z * scale + shift)) <= bound).all(), (rows, C)


@isas
@pytest.mark.parametrize("gap", (0, 3))
def test_batch_norm_backward(isa: Any, gap: int) -> None:
    rng = np.random.default_rng(62)
    for rows, C in shapes(_core.vector_length(isa)):
        if rows == 1:
            continue
        x, g = random(rng, rows, C) + random(rng, C), random(rng, rows, C)
        scale = random(rng, C)
        _, mean, var = forward(isa, x, scale, scale, 0)
        desc = _core.BatchNorm(rows=rows, C=C, x_ld=C + gap, y_ld=C + 2 * gap, g_ld=C + 3 * gap, epsilon=EPSILON)
        data = [(g, (C + 3 * gap, 1)), (x, (C + gap, 1)), mean]
        (sums,) = backward.run(
            isa, "batch_norm_backward_stats", desc, data, parts(isa, desc, "batch_norm_backward_stats")
        )
        outs = (packed(C), packed(C), packed(3 * C))
        dscale, dshift, factors = backward.run(isa, "batch_norm_backward_finish", desc, [sums, var, scale], *outs)
        out = Out((rows, C), (C + 2 * gap, 1))
        (dx,) = backward.run(isa, "batch_norm_backward_apply", desc, [*data, factors], out)
        want = reference_backward.batch_norm(*(v.astype(np.float64) for v in (g, x, scale)), EPSILON)
        size = float(np.abs(want[0]).max()) + float(np.abs(g).max())
        assert np.abs(dx - want[0]).max() <= 2e-6 * (1 + 30 / rows) * size * 30, (rows, C)
        close(dscale, want[1], terms=rows, scale=4 * np.sqrt(rows), note=(rows, C))
        close(dshift, want[2], terms=rows, scale=np.sqrt(rows), note=(rows, C))


@isas
@pytest.mark.parametrize("with_scale", (False, True))
def test_normalize_backward(isa: Any, with_scale: bool) -> None:
    rng = np.random.default_rng(63)
    V = _core.vector_length(isa)
    for outer, rows, groups, width in (
        (5, 1, 1, 2 * V + 3),
        (40, 1, 1, 300),
        (2, 9, 3, V + 1),
        (3, 20, 4, 2),
        (2, 50, 5, 1),
    ):
        channels = groups * width
        x, g = random(rng, outer, rows, channels), random(rng, outer, rows, channels)
        scale = random(rng, channels)
        xs, gs, ds = (dense(x.shape, channels + gap) for gap in (1, 2, 3))
        desc = _core.NormalizeBackward(
            outer=outer, rows=rows, groups=groups, width=width, g_outer=gs[0], g_row=gs[1], x_outer=xs[0], x_row=xs[1],
            dx_outer=ds[0], dx_row=ds[1], epsilon=EPSILON,
        )  # fmt: skip
        count = _core.extent_more(desc, isa)[0] // (2 * channels)
        inputs = [(g, gs), (x, xs), scale if with_scale else None]
        dx, sums = backward.run(
            isa, "normalize_backward", desc, inputs, Out(x.shape, ds), packed(count, 2, groups, width)
        )
        split = (outer, rows, groups, width)
        wide = [v.astype(np.float64).reshape(split) for v in (g, x)]
        given = scale.astype(np.float64).reshape(groups, width) if with_scale else None
        want = reference_backward.normalize(*wide, given, EPSILON)
        np.testing.assert_allclose(dx, want[0].reshape(x.shape), rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(sums.sum(axis=0)[0], want[1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(sums.sum(axis=0)[1], want[2], rtol=1e-4, atol=1e-4)


@isas
def test_lrn_backward(isa: Any) -> None:
    rng = np.random.default_rng(64)
    V = _core.vector_length(isa)
    for c in [*cases.channels(V), 255, 256, 257, 600]:
        for size, alpha, beta, bias in PARAMETERS:
            if size > 64 and c > 60:
                continue
            alpha, beta, bias = (float(np.float32(v)) for v in (alpha, beta, bias))
            x, g = 2 * random(rng, 3, c), random(rng, 3, c)
            y = reference.lrn(x, size, alpha, beta, bias).astype(np.float32)
            desc = _core.LrnBackward(
                rows=3, C=c, g_ld=c + 1, x_ld=c + 2, y_ld=c, dx_ld=c + 3, size=size, alpha=alpha, beta=beta, bias=bias
            )
            inputs = [(g, (c + 1, 1)), (x, (c + 2, 1)), y]
            (dx,) = backward.run(isa, "lrn_backward", desc, inputs, Out((3, c), (c + 3, 1)))
            want = reference_backward.lrn(g.astype(np.float64), x.astype(np.float64), size, alpha, beta, bias)
            close(dx, want, terms=min(size, c) + 8, scale=float(np.abs(g).max()) * 4, note=(c, size, alpha, beta))
