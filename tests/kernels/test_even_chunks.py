"""Two threads get as much of an operation each: chunks are even in number, and of equal size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests.cases import ConvCase

from .test_conv2d import isas, prepared


def winograd(isa: Any, op: Any, size: int, C: int, K: int, m: int, r: int = 3) -> Any:
    d = _core.Winograd(
        N=1, H=size, W=size, C=C, K=K, P=size, Q=size, pad_t=r // 2, pad_l=r // 2,
        x_image=size * size * C, x_row=size * C, x_ld=C, y_ld=K, m=m, r=r,
    )  # fmt: skip
    _core.extent(d, isa, op)
    _core.prepare(d, isa, op)
    return d


@isas
@pytest.mark.parametrize(
    ("size", "C", "K", "m", "r"),
    [
        (224, 64, 64, 4, 3), (112, 64, 128, 4, 3), (56, 64, 192, 4, 3), (56, 128, 256, 4, 3), (56, 256, 256, 4, 3),
        (35, 96, 96, 4, 3), (71, 80, 192, 4, 3), (147, 32, 64, 4, 3), (27, 64, 192, 2, 5), (35, 48, 64, 2, 5),
        (56, 64, 64, 4, 3), (32, 64, 64, 4, 3), (28, 64, 64, 4, 3), (16, 32, 32, 4, 3), (14, 128, 32, 4, 3),
    ],
)  # fmt: skip
def test_blocks_of_tiles(isa: Any, size: int, C: int, K: int, m: int, r: int) -> None:
    """Of the networks' layers whose tiles are many. Seven blocks made three for one thread and four for the other."""
    d = winograd(isa, _core.Op.winograd_conv2d, size, C, K, m, r)
    assert d.chunks % 2 == 0
    assert d.tiles_h * d.tiles_w <= d.chunks * d.block


@isas
@pytest.mark.parametrize("size", (7, 8, 13, 14, 17, 28))
@pytest.mark.parametrize("K", (48, 128, 192, 208, 224, 288, 320, 384, 512))
def test_panels_and_blocks(isa: Any, size: int, K: int) -> None:
    """An odd number of panels has an even number of blocks, but where there are tiles for one block alone."""
    for m in (2, 3, 4):
        d = winograd(isa, _core.Op.winograd_product, size, 96, K, m)
        tiles = d.tiles_h * d.tiles_w
        assert d.chunks % 2 == 0 or (d.block == tiles and tiles < 48), (m, d.chunks, d.block)


@isas
@pytest.mark.parametrize("size", (7, 8, 14, 17, 19, 28, 56, 112))
@pytest.mark.parametrize("stride", (1, 2))
@pytest.mark.parametrize("means", (0, 1))
@pytest.mark.parametrize("N", (1, 2))
def test_depthwise(isa: Any, size: int, stride: int, means: int, N: int) -> None:
    """As the convolutions in front are cut: by rows, or by channels where pixels are few."""
    P = -(-size // stride)
    for K in (96, 384, 576, 672, 960):
        d = _core.DepthwiseConv2d(
            N=N, H=size, W=size, C=K, K=K, P=P, Q=P, R=3, S=3, multiplier=1, stride_h=stride, stride_w=stride,
            dilation_h=1, dilation_w=1, pad_t=1, pad_l=1, x_ld=K, x_row=size * K, x_image=size * size * K, y_ld=K,
            means=means,
        )  # fmt: skip
        _core.prepare(d, isa)
        images = N if means else 1
        rows = np.diff(N * P // images * np.arange(d.bands + 1) // d.bands)
        lines = np.diff(-(-K // 16) * np.arange(d.line_chunks + 1) // d.line_chunks)
        sizes = np.outer(rows, lines).ravel()
        assert d.chunks == images * len(sizes)
        assert len(sizes) > 1 or 18 * K * P * P * N // images <= 1 << 18, "enough for a second thread"
        if len(sizes) > 1:
            assert (d.bands > 1) == ((P >= 14) if means else (N * size * size > 98))
            assert 0.42 <= sum(sizes[: len(sizes) // 2]) / sum(sizes) <= 0.58, (K, d.bands, d.line_chunks)


@isas
def test_pools(isa: Any) -> None:
    for size, C in ((14, 512), (17, 768), (28, 192), (28, 256), (35, 288), (71, 192)):
        d = _core.Pool2d(
            N=1, H=size, W=size, C=C, P=size, Q=size, R=3, S=3, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
            pad_t=1, pad_l=1, pad_b=1, pad_r=1, x_ld=C, x_row=size * C, x_image=size * size * C, y_ld=C,
        )  # fmt: skip
        _core.prepare(d, isa)
        assert d.chunks % 2 == 0 or d.chunks == size, (size, d.chunks)


@isas
def test_one_pixel(isa: Any) -> None:
    """The layers behind squeeze-and-excite's means: cut by panels from 64 kB of weights on."""
    for C, K, parts in ((48, 1152, True), (28, 672, True), (20, 480, False)):
        d = prepared(isa, ConvCase("", 1, 1, 1, C, K, 1, 1), "gemm")
        assert (d.panel_chunks > 1) == parts and d.chunks == d.panel_chunks, (C, K, d.chunks)
