"""depthwise_conv2d: unrolled 3x3 and 5x5 filters, and the general loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests.cases import ConvCase, small_depthwise

from .guard import F32, LEVELS, close, random
from .weighted import ACTIVATIONS, activation, conv2d, expected

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


def operands(rng: np.random.Generator, case: ConvCase) -> tuple[F32, F32, F32, F32]:
    x = random(rng, case.N, case.H, case.W, case.C)
    w = random(rng, case.K, 1, case.R, case.S)
    return x, w, random(rng, case.K), random(rng, case.N, case.P, case.Q, case.K)


def check(
    isa: Any, case: ConvCase, *, with_bias: bool, with_residual: bool, act: str, gaps: tuple[int, int, int]
) -> None:
    x, w, bias, residual = operands(np.random.default_rng(11), case)
    b, r = bias if with_bias else None, residual if with_residual else None
    got = conv2d(isa, case, x, w, b, r, act=act, gaps=gaps, algorithm="depthwise")
    taps = case.R * case.S
    close(got, expected(case, x, w, b, r, act), terms=taps, scale=np.sqrt(taps) + 1, note=case)


@isas
def test_small(isa: Any) -> None:
    for case in small_depthwise(_core.vector_length(isa)):
        check(isa, case, with_bias=True, with_residual=False, act="identity", gaps=(0, 0, 0))


@isas
@pytest.mark.parametrize("with_bias", (False, True))
@pytest.mark.parametrize("act", ("identity", "relu6", "elu"))
def test_epilogue_and_gaps(isa: Any, with_bias: bool, act: str) -> None:
    for case in small_depthwise(_core.vector_length(isa)):
        check(isa, case, with_bias=with_bias, with_residual=True, act=act, gaps=(3, 5, 2))


def widths(V: int) -> Iterator[ConvCase]:
    """Image widths around the block of seven outputs, with every border on either side; several vectors of channels."""
    C = 2 * V + 3
    for size in (3, 5):
        for stride in (1, 2):
            for W in (size, *range(6, 19), 29):
                for left, right in ((0, 0), (1, 1), (size // 2, 0), (size // 2, size // 2), (size - 1, size)):
                    pads = (1, left, 0, right)
                    yield ConvCase(f"{size}-s{stride}-w{W}", 1, 5, W, C, C, size, size, (stride,) * 2, pads, groups=C)


@isas
def test_widths(isa: Any) -> None:
    for case in widths(_core.vector_length(isa)):
        check(isa, case, with_bias=True, with_residual=False, act="relu", gaps=(0, 1, 0))


@isas
@pytest.mark.parametrize("stride", (1, 2))
def test_images_beyond_the_cache(isa: Any, stride: int) -> None:
    """More than FAR_IMAGE (csrc/cpu/kernels.h): some levels fetch the next pixels, also behind the last ones."""
    for size in (3, 5):
        case = ConvCase(f"{size}", 2, 69, 80, 26, 26, size, size, (stride,) * 2, (size // 2,) * 4, groups=26)
        assert 4 * case.N * case.H * case.W * case.C > 1 << 20
        check(isa, case, with_bias=True, with_residual=stride == 2, act="relu", gaps=(0, 0, 0))


@isas
@pytest.mark.parametrize("multiplier", (2, 3, 8))
def test_multiplier(isa: Any, multiplier: int) -> None:
    """Output channel k reads input channel k // multiplier, across vectors and tails."""
    V = _core.vector_length(isa)
    for C in (1, 2, V - 1, V + 1):
        for strides, dilations in (((1, 1), (1, 1)), ((2, 1), (1, 2))):
            case = ConvCase("m", 2, 7, 6, C, C * multiplier, 3, 3, strides, (1, 0, 2, 2), dilations, groups=C)
            check(isa, case, with_bias=True, with_residual=True, act="relu6", gaps=(2, 1, 3))


@isas
@pytest.mark.parametrize("stride", (1, 2))
def test_chunks(isa: Any, stride: int) -> None:
    case = ConvCase("large", 2, 57, 56, 96, 96, 3, 3, (stride,) * 2, (1, 1, 1, 1), groups=96)
    check(isa, case, with_bias=True, with_residual=False, act="relu6", gaps=(0, 0, 0))
    x_ld = case.C
    desc = _core.DepthwiseConv2d(
        N=2, H=57, W=56, C=96, K=96, P=case.P, Q=case.Q, R=3, S=3, multiplier=1, stride_h=stride, stride_w=stride,
        dilation_h=1, dilation_w=1, pad_t=1, pad_l=1, x_ld=x_ld, x_row=56 * x_ld, x_image=57 * 56 * x_ld, y_ld=96,
    )  # fmt: skip
    _core.prepare(desc, isa)
    assert desc.chunks > 4 and desc.line_chunks == 1


@isas
@pytest.mark.parametrize("N", (1, 2))
@pytest.mark.parametrize("W", (6, 7))  # less than a block, a block
def test_few_pixels_are_cut_by_channels(isa: Any, N: int, W: int) -> None:
    case = ConvCase("few", N, 7, W, 1000, 1000, 5, 5, pads=(2, 2, 2, 2), groups=1000)
    check(isa, case, with_bias=True, with_residual=True, act="relu6", gaps=(1, 3, 2))


@isas
@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("dilation", (1, 2))  # the unrolled filter, the general loop
def test_every_activation(isa: Any, act: str, dilation: int) -> None:
    """Fused, an activation gives the bits of the unary kernel on the same sums."""
    C = 2 * _core.vector_length(isa) + 3
    case = ConvCase("act", 1, 5, 9, C, C, 3, 3, pads=(2, 2, 2, 2), dilations=(dilation,) * 2, groups=C)
    x, w, bias, residual = operands(np.random.default_rng(12), case)
    sums = conv2d(isa, case, x, w, bias, residual, algorithm="depthwise")
    want = np.full_like(sums, np.nan)
    desc = _core.Unary(rows=sums.size // C, n=C, x_ld=C, y_ld=C, act=activation(act))
    _core.run_kernel(isa, desc, [sums], want)
    got = conv2d(isa, case, x, w, bias, residual, act=act, gaps=(0, 3, 0), algorithm="depthwise")
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


@isas
def test_not_a_number_stays_in_its_channel(isa: Any) -> None:
    C = _core.vector_length(isa) + 3
    case = ConvCase("nan", 1, 7, 9, C, C, 3, 3, pads=(1, 1, 1, 1), groups=C)
    x, w, bias, _ = operands(np.random.default_rng(13), case)
    x[0, 2, 3, 1] = np.nan
    x[0, 6, 8, C - 1] = -np.inf
    got = conv2d(isa, case, x, w, bias, algorithm="depthwise")
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(expected(case, x, w, bias, None, "identity")))


@isas
def test_empty_batch(isa: Any) -> None:
    case = ConvCase("empty", 0, 4, 4, 3, 3, 3, 3, groups=3)
    x, w, bias, _ = operands(np.random.default_rng(14), case)
    assert conv2d(isa, case, x, w, bias, algorithm="depthwise").shape == (0, 2, 2, 3)


@pytest.mark.parametrize(
    "wrong",
    (
        dict(N=-1), dict(Q=-1), dict(W=0), dict(S=0), dict(stride_w=0), dict(dilation_h=0), dict(pad_l=-1),
        dict(multiplier=0), dict(multiplier=2), dict(K=6), dict(x_ld=2), dict(y_ld=2), dict(x_image=-1),
        dict(res_ld=-1),
        dict(N=1 << 31), dict(x_row=1 << 62), dict(P=(1 << 31) - 1, Q=(1 << 31) - 1, y_ld=4),
        dict(R=(1 << 31) - 1, S=(1 << 31) - 1),
    ),
    ids=str,
)  # fmt: skip
def test_rejects(wrong: dict[str, int]) -> None:
    good = dict(N=1, H=4, W=4, C=3, K=3, P=4, Q=4, R=1, S=1, multiplier=1, stride_h=1, stride_w=1, dilation_h=1,
                dilation_w=1, x_image=48, x_row=12, x_ld=3, y_ld=3)  # fmt: skip
    x, w = np.zeros(96, np.float32), np.zeros(1 << 10, np.float32)
    _core.run_kernel(LEVELS[0], _core.DepthwiseConv2d(**good), [x, w], x.copy())
    with pytest.raises(ValueError):
        _core.run_kernel(LEVELS[0], _core.DepthwiseConv2d(**{**good, **wrong}), [x, w], x.copy())
