"""depthwise_conv2d that also gathers the mean of its output over each image: sums of bands of rows, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import _core
from tests.cases import ConvCase

from .guard import F32, LEVELS, close, dense, guarded, random, view
from .weighted import ACTIVATIONS, activation, conv2d, expected, pack_depthwise

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def gather(isa: Any, case: ConvCase, x: F32, w: F32, bias: F32, act: str, gap: int = 0) -> tuple[F32, F32]:
    """(y, sums [N, bands, K]) of runs between guard pages: at once, and chunk by chunk from the last one on."""
    shape = (case.N, case.P, case.Q, case.K)
    strides, y_strides = dense(x.shape), dense(shape, case.K + gap)
    desc = _core.DepthwiseConv2d(
        N=case.N, H=case.H, W=case.W, C=case.C, K=case.K, P=case.P, Q=case.Q, R=case.R, S=case.S,
        multiplier=case.K // case.C, stride_h=case.strides[0], stride_w=case.strides[1],
        dilation_h=case.dilations[0], dilation_w=case.dilations[1], pad_t=case.pads[0], pad_l=case.pads[1],
        x_image=strides[0], x_row=strides[1], x_ld=strides[2], y_ld=y_strides[2], act=activation(act), means=1,
    )  # fmt: skip
    bands = _core.depthwise_bands(case.P)
    assert list(_core.extent_more(desc, isa)) == [case.N * bands * case.K, 0]
    _core.prepare(desc, isa)
    results = []
    for side in ("end", "start"):
        inputs = []
        for array in (x, pack_depthwise(isa, w), bias):
            flat = guarded(array.size, side)
            flat[:] = array.ravel()
            inputs.append(flat)
        out = guarded(_core.extent(desc, isa)[1], side)
        sums = guarded(case.N * bands * case.K, side)
        for step in (desc.chunks, 1, desc.chunks // 3 + 1):  # the last begins within bands and goes across them
            out[:] = sums[:] = np.nan
            for begin in reversed(range(0, desc.chunks, step)):
                chunks = (begin, min(begin + step, desc.chunks))
                _core.run_kernel(isa, desc, inputs, out, chunks=chunks, more=[sums])
            results.append((view(out, shape, y_strides).copy(), sums.reshape(case.N, bands, case.K).copy()))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one.view(np.int32), two.view(np.int32), "chunks change the result")
    return results[0]


def check(isa: Any, case: ConvCase, act: str, gap: int = 0) -> None:
    rng = np.random.default_rng(21)
    x, w = random(rng, case.N, case.H, case.W, case.C), random(rng, case.K, 1, case.R, case.S)
    bias = random(rng, case.K)
    y, sums = gather(isa, case, x, w, bias, act, gap)
    plain = conv2d(isa, case, x, w, bias, act=act, algorithm="depthwise")
    np.testing.assert_array_equal(y.view(np.int32), plain.view(np.int32), "the outputs are those without means")
    size = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
    pixels = case.P * case.Q
    means = sums.sum(axis=1, dtype=np.float64).astype(np.float32)
    close(means, y.mean(axis=(1, 2), dtype=np.float64), terms=8, scale=size, note=case)
    if act in ("identity", "relu6"):
        want = expected(case, x, w, bias, None, act).mean(axis=(1, 2))
        close(means, want, terms=case.R * case.S + 8, scale=np.sqrt(case.R * case.S) + 1, note=case)
    edges = case.P * np.arange(sums.shape[1] + 1) // sums.shape[1]
    for band in range(sums.shape[1]):
        part = y[:, edges[band] : edges[band + 1]].sum(axis=(1, 2), dtype=np.float64) / pixels
        close(sums[:, band], part, terms=8, scale=size, note=(case, band))


@isas
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation(isa: Any, act: str) -> None:
    C = 2 * _core.vector_length(isa) + 3
    check(isa, ConvCase("act", 2, 9, 11, C, C, 3, 3, pads=(1, 1, 1, 1), groups=C), act, gap=5)


@isas
def test_channels_and_filters(isa: Any) -> None:
    """Around whole vectors and lines of 16 channels, on all the loops: unrolled, any filter, multiplied."""
    V = _core.vector_length(isa)
    for C in sorted({1, 3, V - 1, V, V + 1, 2 * V + 3, 15, 16, 17, 40}):
        for size, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 1, 1), (5, 2, 1), (3, 1, 2), (7, 1, 1)):
            pad = size // 2 * dilation
            case = ConvCase(
                "c", 2, 10, 17, C, C, size, size, (stride,) * 2, (pad,) * 4, (dilation,) * 2, groups=C
            )  # fmt: skip
            check(isa, case, "relu6")
        check(isa, ConvCase("m", 1, 6, 7, C, 2 * C, 3, 3, (1, 1), (1, 1, 1, 1), groups=C), "swish")


@isas
def test_bands(isa: Any) -> None:
    """Heights around those where another band begins; wide rows, so that several sums of pixels are joined."""
    for H in (1, 6, 13, 14, 15, 27, 28, 29, 41, 42, 55, 56, 57, 64, 65, 112, 113):
        check(isa, ConvCase("bands", 1, H, 19, 20, 20, 3, 3, (1, 1), (1, 1, 1, 1), groups=20), "swish")
    check(isa, ConvCase("wide", 1, 30, 601, 16, 16, 3, 3, (1, 1), (1, 1, 1, 1), groups=16), "swish")
    check(isa, ConvCase("very wide", 1, 1, 100003, 17, 17, 3, 3, (1, 1), (1, 1, 1, 1), groups=17), "swish")


@isas
@pytest.mark.parametrize("N", (1, 3))
def test_bands_of_parts_of_the_lines(isa: Any, N: int) -> None:
    C = 336
    check(isa, ConvCase("parts", N, 14, 15, C, C, 5, 5, (1, 1), (2, 2, 2, 2), groups=C), "swish")


def test_bands_are_of_one_image() -> None:
    """Each band has rows, and how an image is cut does not depend on the others."""
    for P in range(1, 400):
        bands = _core.depthwise_bands(P)
        assert 1 <= bands <= 8 and P // bands >= min(P, 7) and (bands == 1 or bands % 2 == 0)
    for level in LEVELS:
        cut = []
        for N in (1, 5):
            desc = _core.DepthwiseConv2d(
                N=N, H=56, W=56, C=144, K=144, P=56, Q=56, R=3, S=3, multiplier=1, stride_h=1, stride_w=1,
                dilation_h=1, dilation_w=1, pad_t=1, pad_l=1, x_ld=144, x_row=56 * 144, x_image=56 * 56 * 144,
                y_ld=144, means=1,
            )  # fmt: skip
            _core.prepare(desc, level)
            assert desc.chunks == N * desc.bands * desc.line_chunks
            cut.append((desc.bands, desc.line_chunks))
        assert cut[0] == cut[1]
        assert cut[0][0] * cut[0][1] >= 8  # enough for eight threads


@isas
def test_images_of_a_batch(isa: Any) -> None:
    rng = np.random.default_rng(22)
    case = ConvCase("batch", 3, 30, 15, 21, 21, 5, 5, (1, 1), (2, 2, 2, 2), groups=21)
    x, w, bias = random(rng, 3, 30, 15, 21), random(rng, 21, 1, 5, 5), random(rng, 21)
    _, together = gather(isa, case, x, w, bias, "swish")
    for i in range(3):
        _, sums = gather(isa, case._replace(N=1), x[i : i + 1], w, bias, "swish")
        np.testing.assert_array_equal(sums[0].view(np.int32), together[i].view(np.int32))


@isas
def test_not_a_number_stays_in_its_channel(isa: Any) -> None:
    C = _core.vector_length(isa) + 3
    case = ConvCase("nan", 1, 7, 9, C, C, 3, 3, pads=(1, 1, 1, 1), groups=C)
    rng = np.random.default_rng(23)
    x, w, bias = random(rng, 1, 7, 9, C), random(rng, C, 1, 3, 3), random(rng, C)
    x[0, 2, 3, 1], x[0, 6, 8, C - 1] = np.nan, np.inf
    _, sums = gather(isa, case, x, w, bias, "identity")
    assert list(np.flatnonzero(~np.isfinite(sums[0, 0]))) == [1, C - 1]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    draw = lambda *a: data.draw(st.integers(*a))  # noqa: E731
    isa = data.draw(st.sampled_from(LEVELS))
    R, S, stride, dilation = draw(1, 5), draw(1, 5), draw(1, 3), draw(1, 2)
    pads = (draw(0, 3), draw(0, 3), draw(0, 3), draw(0, 3))
    H, W = draw((R - 1) * dilation + 1, 60), draw((S - 1) * dilation + 1, 40)
    C, multiplier = draw(1, 40), data.draw(st.sampled_from((1, 1, 1, 2)))
    case = ConvCase(
        "any", draw(1, 3), H, W, C, C * multiplier, R, S, (stride, stride), pads, (dilation,) * 2, groups=C
    )  # fmt: skip
    check(isa, case, data.draw(st.sampled_from(("identity", "relu6", "swish", "hard_swish", "gelu"))), draw(0, 3))


@pytest.mark.parametrize("wrong", (dict(means=2), dict(means=-1), dict(P=0), dict(Q=0)), ids=str)
def test_rejects(wrong: dict[str, int]) -> None:
    good = dict(N=1, H=4, W=4, C=3, K=3, P=4, Q=4, R=1, S=1, multiplier=1, stride_h=1, stride_w=1, dilation_h=1,
                dilation_w=1, x_image=48, x_row=12, x_ld=3, y_ld=3, means=1)  # fmt: skip
    x, w = np.zeros(96, np.float32), np.zeros(1 << 10, np.float32)
    _core.run_kernel(LEVELS[0], _core.DepthwiseConv2d(**good), [x, w], x.copy(), more=[x.copy()])
    with pytest.raises(ValueError):
        _core.run_kernel(LEVELS[0], _core.DepthwiseConv2d(**good), [x, w], x.copy())  # no place for the means
    with pytest.raises(ValueError):
        _core.run_kernel(LEVELS[0], _core.DepthwiseConv2d(**{**good, **wrong}), [x, w], x.copy(), more=[x.copy()])
