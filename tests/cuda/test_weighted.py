"""Dense layers and depthwise convolutions against reference.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference
from tests.kernels.guard import dense
from tests.kernels.weighted import ACTIVATIONS, activation

from .single import PRECISIONS, SCALAR, close, constant, random, run, target


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("M", (1, 2, 8, 9, 70))
def test_linear(precision: str, M: int) -> None:
    rng = np.random.default_rng(M)
    for C, K, gaps, residual, trans_b in (
        (1, 1, (0, 0, 0), False, True),
        (40, 24, (0, 8, 8), True, True),
        (67, 33, (1, 3, 5), True, False),
        (520, 9, (8, 0, 0), False, True),
    ):
        x, w = random(rng, precision, M, C), random(rng, precision, *((K, C) if trans_b else (C, K)))
        b = rng.standard_normal(K, np.float32)
        res = random(rng, precision, M, K) if residual else None
        xs, ys, rs = dense((M, C), C + gaps[0]), dense((M, K), K + gaps[1]), dense((M, K), K + gaps[2])
        desc = _core.Linear(M=M, C=C, K=K, x_ld=xs[0], y_ld=ys[0], res_ld=rs[0], act=activation("leaky_relu"))
        packed = target(precision).store().pack_linear(w, None, trans_b, SCALAR)
        inputs: list[Any] = [(x, xs), packed, constant(precision, b), None if res is None else (res, rs)]
        got = run(precision, "linear", desc, inputs, (M, K), ys)
        z = x.astype(np.float64) @ (w.T if trans_b else w).astype(np.float64) + b + (0 if res is None else res)
        want = reference.activation(*ACTIVATIONS["leaky_relu"])(z)
        close(got, want, precision, terms=C, scale=float(np.sqrt(C)), note=(M, C, K))


def test_linear_after_flatten() -> None:
    """A weight for an image flattened as C H W, and x in the order H W C."""
    rng = np.random.default_rng(5)
    w, x = rng.standard_normal((7, 3 * 10), np.float32), rng.standard_normal((1, 10, 3), np.float32)
    packed = target("fp32").store().pack_linear(w, None, True, SCALAR, 10)
    desc = _core.Linear(M=1, C=30, K=7, x_ld=30, y_ld=7, act=activation("identity"))
    got = run("fp32", "linear", desc, [(x.reshape(1, 30), (30, 1)), packed], (1, 7))
    close(got, x.transpose(0, 2, 1).reshape(1, 30).astype(np.float64) @ w.T, "fp32", terms=30, scale=6.0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_depthwise(precision: str) -> None:
    rng = np.random.default_rng(6)
    wide = [
        cases.ConvCase(f"wide{r}-s{s}", 2, 9, 11, 24, 24, r, r, (s, s), (r // 2, r // 2, 1, r // 2), groups=24)
        for r in (3, 5, 7)
        for s in (1, 2)
    ]  # fmt: skip
    for case in [*cases.small_depthwise(8), *wide]:
        for gap, residual in ((0, False), (8, True), (3, True)):
            x, w = (
                random(rng, precision, case.N, case.H, case.W, case.C),
                rng.standard_normal((case.K, 1, case.R, case.S), np.float32),
            )
            b, shape = rng.standard_normal(case.K, np.float32), (case.N, case.P, case.Q, case.K)
            res = random(rng, precision, *shape) if residual else None
            xs, ys = dense(x.shape, case.C + gap), dense(shape, case.K + gap)
            desc = _core.DepthwiseConv2d(
                N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S,
                multiplier=case.K // case.C, stride_h=case.strides[0], stride_w=case.strides[1],
                dilation_h=case.dilations[0], dilation_w=case.dilations[1], pad_t=case.pads[0], pad_l=case.pads[1],
                x_image=xs[0], x_row=xs[1], x_ld=xs[2], y_ld=ys[2], res_ld=ys[2], act=activation("swish"),
            )  # fmt: skip
            packed = target(precision).store().pack_depthwise_conv2d(w, None, SCALAR)
            inputs: list[Any] = [(x, xs), packed, constant(precision, b), None if res is None else (res, ys)]
            got = run(precision, "depthwise_conv2d", desc, inputs, shape, ys)
            want = reference.conv2d(
                x, w, b, res, strides=case.strides, dilations=case.dilations, pads=case.pads, groups=case.groups,
                act=reference.activation("swish"),
            )  # fmt: skip
            close(got, want, precision, terms=case.R * case.S, scale=float(case.R), note=(case.name, gap))
