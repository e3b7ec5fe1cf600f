"""Gradients of convolutions: weights and input, of every stride, dilation, group count and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference_backward

from . import backward
from .backward import Out, packed
from .guard import F32, LEVELS, close, dense, random

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def geometry(case: cases.ConvCase) -> dict[str, int]:
    return dict(
        N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S, groups=case.groups,
        stride_h=case.strides[0], stride_w=case.strides[1], dilation_h=case.dilations[0],
        dilation_w=case.dilations[1], pad_t=case.pads[0], pad_l=case.pads[1],
    )  # fmt: skip


def options(case: cases.ConvCase) -> dict[str, Any]:
    return dict(strides=case.strides, dilations=case.dilations, pads=case.pads, groups=case.groups)


def is_depthwise(case: cases.ConvCase) -> bool:
    return case.groups > 1 and case.groups == case.C


def weight(isa: Any, case: cases.ConvCase, x: F32, g: F32, gaps: tuple[int, int] = (0, 0)) -> F32:
    """dw[K, C/groups, R, S]; gaps: behind the pixels of x and g."""
    xs, gs = dense(x.shape, case.C + gaps[0]), dense(g.shape, case.K + gaps[1])
    taps, cg = case.R * case.S, case.C // case.groups
    desc = _core.Conv2dBackwardWeight(
        x_image=xs[0], x_row=xs[1], x_ld=xs[2], g_ld=gs[2], dw_k=cg * taps, dw_c=taps, dw_tap=1, **geometry(case)
    )
    op = "depthwise_backward_weight" if is_depthwise(case) else "conv2d_backward_weight"
    _, size = _core.extent(desc, isa, getattr(_core.Op, op))
    (sums,) = backward.run(isa, op, desc, [(x, xs), (g, gs)], packed(size))
    (dw,) = backward.run(isa, "conv2d_backward_weight_sum", desc, [sums], packed(case.K, cg, case.R, case.S))
    return dw


def pack(isa: Any, w: F32, op: str = "pack_weights", **fields: Any) -> F32:
    desc = _core.PackWeights(**fields)
    size = _core.extent(desc, isa, getattr(_core.Op, op))[1]
    (out,) = backward.run(isa, op, desc, [w.reshape(-1)], packed(size))
    return out


def input_(isa: Any, case: cases.ConvCase, g: F32, w: F32, residual: F32 | None = None, gap: int = 0) -> F32:
    """dx[N, H, W, C]; gap: behind the pixels of g, dx and the residual."""
    K, cg, R, S = w.shape
    gs, shape = dense(g.shape, K + gap), (case.N, case.H, case.W, case.C)
    xs, rs = dense(shape, case.C + gap), dense(shape, case.C + gap)
    desc = _core.Conv2dBackwardInput(
        g_ld=gs[2], x_image=xs[0], x_row=xs[1], x_ld=xs[2], res_ld=rs[2] if residual is not None else case.C,
        **geometry(case),
    )  # fmt: skip
    if is_depthwise(case) and case.K == case.C:
        op = "depthwise_backward_input"
        layout = _core.PanelLayout.depthwise
        weights = pack(isa, w, K=K, C=1, taps=R * S, groups=1, w_k=R * S, w_c=1, w_tap=1, layout=layout)
    else:
        op = "conv2d_backward_input"
        kg = K // case.groups
        weights = pack(
            isa, w, K=case.C, C=K, taps=R * S, groups=case.groups, w_k=R * S, w_c=cg * R * S, w_tap=1,
            w_group=kg * cg * R * S, layout=_core.PanelLayout.conv2d,
        )  # fmt: skip
    inputs = [(g, gs), weights, None if residual is None else (residual, rs)]
    (dx,) = backward.run(isa, op, desc, inputs, Out(shape, xs))
    return dx


def check(isa: Any, case: cases.ConvCase, gap: int = 0) -> None:
    rng = np.random.default_rng(31)
    x, w = random(rng, case.N, case.H, case.W, case.C), random(rng, case.K, case.C // case.groups, case.R, case.S)
    g = random(rng, case.N, case.P, case.Q, case.K)
    want = reference_backward.conv2d_weight(x, g, w.shape, **options(case))
    pixels = case.N * case.P * case.Q
    close(weight(isa, case, x, g, (gap, 2 * gap)), want, terms=pixels, scale=np.sqrt(pixels), note=case)
    depth = case.K // case.groups * case.R * case.S
    want = reference_backward.conv2d_input(g, w, x.shape, **options(case))
    close(input_(isa, case, g, w, gap=gap), want, terms=depth, scale=np.sqrt(depth), note=case)
    residual = random(rng, *x.shape)
    close(input_(isa, case, g, w, residual, gap), want + residual, terms=depth, scale=np.sqrt(depth) + 1, note=case)


@isas
def test_small(isa: Any) -> None:
    for case in cases.small_convs(_core.vector_length(isa)):
        check(isa, case)


@isas
def test_gaps(isa: Any) -> None:
    for case in cases.small_convs(_core.vector_length(isa)):
        check(isa, case, 3)


@isas
def test_depthwise(isa: Any) -> None:
    for case in cases.small_depthwise(_core.vector_length(isa)):
        check(isa, case)
        check(isa, case, 5)


@isas
@pytest.mark.parametrize(
    "case",
    (
        cases.ConvCase("parts", 2, 40, 33, 20, 70, 3, 3, pads=(1, 1, 1, 1)),
        cases.ConvCase("stem", 3, 61, 59, 3, 64, 7, 7, strides=(2, 2), pads=(3, 3, 3, 3)),
        cases.ConvCase("deep", 2, 14, 14, 300, 130, 1, 1),
        cases.ConvCase("stride2", 2, 15, 14, 70, 65, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1)),
        cases.ConvCase("downsample", 2, 14, 14, 96, 80, 1, 1, strides=(2, 2)),
        cases.ConvCase("stride3", 1, 20, 23, 8, 8, 5, 4, strides=(3, 4), pads=(0, 2, 3, 1), dilations=(2, 1)),
        cases.ConvCase("runs", 1, 30, 200, 6, 16, 5, 5),
        cases.ConvCase("dw", 2, 40, 40, 100, 100, 3, 3, pads=(1, 1, 1, 1), groups=100),
    ),
    ids=lambda c: c.name,
)
def test_large(isa: Any, case: cases.ConvCase) -> None:
    check(isa, case)


@isas
@pytest.mark.parametrize("groups", (1, 4))
def test_empty_batch(isa: Any, groups: int) -> None:
    case = cases.ConvCase("empty", 0, 5, 4, 4, 4, 3, 3, groups=groups)
    g, w = np.zeros((0, case.P, case.Q, 4), np.float32), np.ones((4, 4 // groups, 3, 3), np.float32)
    assert input_(isa, case, g, w).shape == (0, 5, 4, 4)


@isas
def test_no_pixels(isa: Any) -> None:
    case = cases.ConvCase("none", 0, 5, 5, 3, 4, 3, 3)
    dw = weight(isa, case, np.zeros((0, 5, 5, 3), np.float32), np.zeros((0, 3, 3, 4), np.float32))
    np.testing.assert_array_equal(dw, 0)


@isas
@pytest.mark.parametrize(
    "case",
    (
        cases.ConvCase("pixels", 2, 6, 7, 20, 3, 3, 3, pads=(1, 1, 1, 1)),
        cases.ConvCase("runs", 2, 6, 7, 3, 20, 3, 3, pads=(1, 1, 1, 1)),
        cases.ConvCase("images", 16, 6, 7, 3, 2, 3, 3, pads=(1, 1, 1, 1)),
        cases.ConvCase("depthwise", 2, 6, 7, 20, 20, 3, 3, pads=(1, 1, 1, 1), groups=20),
    ),
    ids=lambda c: c.name,
)
def test_infinite_gradients(isa: Any, case: cases.ConvCase) -> None:
    """At a border, of one output channel. What meets pixels is infinite, other channels do not see it.

    What meets padding alone is NaN by the definition, 0 times infinity; a kernel that reads no padding gives the sum of
    the others instead. No kernel gives anything else.
    """
    rng = np.random.default_rng(33)
    x, g = random(rng, case.N, case.H, case.W, case.C), random(rng, case.N, case.P, case.Q, case.K)
    shape, pixels = (case.K, case.C // case.groups, case.R, case.S), case.N * case.P * case.Q
    rest = np.where(np.arange(g.size).reshape(g.shape) == 1, 0, g)
    without = reference_backward.conv2d_weight(x, rest, shape, **options(case))
    g.reshape(-1)[1] = np.inf  # the first pixel's second channel
    with np.errstate(invalid="ignore"):
        want = reference_backward.conv2d_weight(x, g, shape, **options(case))
    assert np.isnan(want[1, :, 0]).all() and np.isinf(want[1, :, 1:, 1:]).all() and np.isfinite(want[0]).all()
    got = weight(isa, case, x, g)
    np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])
    padding = np.isnan(want)
    read = np.where(padding, np.where(np.isnan(got), np.nan, without), want)
    finite = np.isfinite(read)
    np.testing.assert_array_equal(np.isfinite(got), finite)
    close(np.where(finite, got, 0), np.where(finite, read, 0), terms=pixels, scale=np.sqrt(pixels), note=case)


@isas
@pytest.mark.parametrize("trans_b", (True, False))
def test_dense_weight(isa: Any, trans_b: bool) -> None:
    """A dense layer is a convolution of one pixel; dw in either layout."""
    rng = np.random.default_rng(32)
    direct = 0
    for M, C, K in ((1, 3, 5), (32, 40, 10), (33, 130, 70), (300, 17, 129), (16, 50, 64), (300, 70, 1040), (1, 9, 16)):
        x, g = random(rng, M, C), random(rng, M, K)
        desc = _core.Conv2dBackwardWeight(
            N=1, H=1, W=M, C=C, K=K, P=1, Q=M, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
            x_image=M * C, x_row=M * C, x_ld=C, g_ld=K, dw_k=C if trans_b else 1, dw_c=1 if trans_b else K, dw_tap=1,
        )  # fmt: skip
        _, size = _core.extent(desc, isa, _core.Op.conv2d_backward_weight)
        inputs = [(x.reshape(1, 1, M, C)), (g.reshape(M, K))]
        out = Out((K, C, 1), (desc.dw_k, desc.dw_c, 1))
        _core.prepare(desc, isa, _core.Op.conv2d_backward_weight)
        direct += desc.direct
        if desc.direct:  # dw is written where it belongs
            (dw,) = backward.run(isa, "conv2d_backward_weight", desc, inputs, out)
        else:
            (sums,) = backward.run(isa, "conv2d_backward_weight", desc, inputs, packed(size))
            (dw,) = backward.run(isa, "conv2d_backward_weight_sum", desc, [sums], out)
        want = g.astype(np.float64).T @ x.astype(np.float64)
        close(dw[:, :, 0], want, terms=M, scale=np.sqrt(M), note=(M, C, K))
    assert direct == (0 if trans_b else 3)


@pytest.mark.parametrize(
    "wrong",
    (
        dict(N=-1), dict(C=0), dict(groups=2), dict(x_ld=3), dict(g_ld=4), dict(stride_h=0), dict(pad_t=-1),
        dict(K=1 << 31),
    ),
    ids=str,
)  # fmt: skip
def test_rejects(wrong: dict[str, int]) -> None:
    good = dict(
        N=1, H=3, W=3, C=4, K=5, P=3, Q=3, R=1, S=1, groups=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
        x_image=36, x_row=12, x_ld=4, g_ld=5,
    )  # fmt: skip
    isa, x = LEVELS[0], np.zeros(4096, np.float32)
    for kind, name, more in (
        (_core.Conv2dBackwardWeight, "conv2d_backward_weight", dict(dw_k=4, dw_c=1, dw_tap=1)),
        (_core.Conv2dBackwardInput, "conv2d_backward_input", dict(res_ld=4)),
    ):
        op = getattr(_core.Op, name)
        _core.run_kernel(isa, kind(**good, **more), [x, x], x.copy(), op=op)
        with pytest.raises(ValueError):
            _core.run_kernel(isa, kind(**{**good, **more, **wrong}), [x, x], x.copy(), op=op)
