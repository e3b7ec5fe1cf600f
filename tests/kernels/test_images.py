"""Convolutions whose lanes are images: forward with every epilogue, and the weights' gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import reference_backward
from tests.cases import ConvCase

from .guard import F32, LEVELS, close, dense, random
from .test_conv2d_backward import geometry, options, weight
from .weighted import conv2d, expected

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def shapes(V: int) -> Iterator[ConvCase]:
    """Images around the vector length, channels around the tiles', windows that leave the image on every side."""
    yield ConvCase("lenet-1", 2 * V, 32, 32, 1, 6 if V > 4 else 3, 5, 5)
    yield ConvCase("turned", V, 10, 10, V // 2, 2, 5, 5, pads=(4, 4, 4, 4))
    for N in (V - 1, V, V + 1, 2 * V + 3):
        for K in (1, 2, 3):
            yield ConvCase(f"{N}x{K}", N, 7, 9, 3, K, 3, 3, pads=(1, 1, 1, 1))
    if V > 4:
        for K in (5, 7, V, V + 1):
            yield ConvCase(f"channels-{K}", 2 * V, 6, 13, 9, K, 3, 4, pads=(0, 2, 1, 1))
    yield ConvCase("strides", V, 15, 14, 5, 2, 3, 3, strides=(2, 3), pads=(1, 1, 1, 1))
    yield ConvCase("dilations", V, 15, 14, 5, 2, 3, 2, pads=(2, 1, 3, 2), dilations=(2, 3))
    yield ConvCase("wide-padding", V, 4, 3, 5, 2, 3, 3, pads=(5, 4, 3, 6))
    yield ConvCase("beyond", V, 3, 3, 5, 2, 2, 2, strides=(3, 3), pads=(3, 3, 3, 3))
    yield ConvCase("bands", 2 * V, 60, 40, 4, 2, 3, 3, pads=(1, 1, 1, 1))


def takes_images(isa: Any, case: ConvCase) -> bool:
    desc = _core.Conv2d(
        x_ld=case.C, x_row=case.W * case.C, x_image=case.H * case.W * case.C, y_ld=case.K,
        algorithm=_core.ConvAlgorithm.implicit, **geometry(case),
    )  # fmt: skip
    _core.prepare(desc, isa)
    return bool(desc.algorithm == _core.ConvAlgorithm.images)


def operands(case: ConvCase) -> tuple[F32, F32, F32, F32]:
    rng = np.random.default_rng(41)
    x, w = random(rng, case.N, case.H, case.W, case.C), random(rng, case.K, case.C, case.R, case.S)
    return x, w, random(rng, case.K), random(rng, case.N, case.P, case.Q, case.K)


@isas
@pytest.mark.parametrize("act", ("identity", "relu", "tanh"))
def test_forward(isa: Any, act: str) -> None:
    """With gaps, bias and residual or without; the sums are those of one image at a time, bit for bit."""
    taken = 0
    for case in shapes(_core.vector_length(isa)):
        taken += takes_images(isa, case)
        x, w, bias, residual = operands(case)
        for b, r, gaps in ((None, None, (0, 0, 0)), (bias, residual, (0, 0, 0)), (bias, residual, (3, 5, 2))):
            got = conv2d(isa, case, x, w, b, r, act=act, gaps=gaps)
            depth = case.C * case.R * case.S
            close(got, expected(case, x, w, b, r, act), terms=depth, scale=np.sqrt(depth) + 1, note=case)
        if act == "identity":
            one = case._replace(N=1)
            alone = [conv2d(isa, one, x[i : i + 1], w, bias, residual[i : i + 1]) for i in range(case.N)]
            np.testing.assert_array_equal(got, np.concatenate(alone))
    assert taken >= 12, taken


@isas
def test_weight(isa: Any) -> None:
    taken = 0
    for case in shapes(_core.vector_length(isa)):
        x, _, _, g = operands(case)
        want = reference_backward.conv2d_weight(x, g, (case.K, case.C, case.R, case.S), **options(case))
        pixels = case.N * case.P * case.Q
        for gaps in ((0, 0), (2, 3)):
            got = weight(isa, case, x, g, gaps)
            close(got, want, terms=pixels, scale=np.sqrt(pixels), note=case)
        xs, gs = dense(x.shape), dense(g.shape)
        desc = _core.Conv2dBackwardWeight(
            x_image=xs[0], x_row=xs[1], x_ld=xs[2], g_ld=gs[2], dw_k=case.C * case.R * case.S, dw_c=case.R * case.S,
            dw_tap=1, **geometry(case),
        )  # fmt: skip
        _core.prepare(desc, isa, _core.Op.conv2d_backward_weight)
        taken += desc.images
    assert taken >= 12, taken
