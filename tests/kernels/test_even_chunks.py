"""Two threads get as much of an operation each: chunks are even in number, and of equal size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core

from .guard import LEVELS

isas = pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)


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
    ],
)  # fmt: skip
def test_blocks_of_tiles(isa: Any, size: int, C: int, K: int, m: int, r: int) -> None:
    """Of the networks' layers whose tiles are many. Seven blocks made three for one thread and four for the other."""
    d = winograd(isa, _core.Op.winograd_conv2d, size, C, K, m, r)
    assert d.chunks % 2 == 0
    assert d.tiles_h * d.tiles_w <= d.chunks * d.block


@isas
@pytest.mark.parametrize("size", (7, 8, 13, 14, 17, 28))
@pytest.mark.parametrize("K", (128, 192, 208, 224, 288, 320, 384, 512))
def test_panels_and_blocks(isa: Any, size: int, K: int) -> None:
    """Few tiles: an odd number of panels has an even number of blocks where there are tiles for two."""
    for m in (2, 3, 4):
        d = winograd(isa, _core.Op.winograd_product, size, 96, K, m)
        tiles = d.tiles_h * d.tiles_w
        assert d.chunks % 2 == 0 or d.block == tiles, (m, d.chunks, d.block)


@isas
@pytest.mark.parametrize("size", (7, 8, 14, 17, 19, 28, 56, 112))
@pytest.mark.parametrize("means", (0, 1))
def test_depthwise(isa: Any, size: int, means: int) -> None:
    """Rows and channels, as the convolutions in front are cut: rows, or channels where pixels are few."""
    for K in (96, 384, 672, 960):
        d = _core.DepthwiseConv2d(
            N=1, H=size, W=size, C=K, K=K, P=size, Q=size, R=3, S=3, multiplier=1, stride_h=1, stride_w=1,
            dilation_h=1, dilation_w=1, pad_t=1, pad_l=1, x_ld=K, x_row=size * K, x_image=size * size * K, y_ld=K,
            means=means,
        )  # fmt: skip
        _core.prepare(d, isa)
        assert d.chunks == d.bands * d.line_chunks
        rows = np.diff(size * np.arange(d.bands + 1) // d.bands)
        lines = np.diff(-(-K // 16) * np.arange(d.line_chunks + 1) // d.line_chunks)
        sizes = np.outer(rows, lines).ravel()
        if len(sizes) > 1:
            assert (d.bands > 1) == (size >= 14)
            assert 0.44 <= sum(sizes[: len(sizes) // 2]) / sum(sizes) <= 0.56, (K, d.bands, d.line_chunks)


@isas
def test_pools(isa: Any) -> None:
    for size, C in ((14, 512), (17, 768), (28, 256), (35, 288), (71, 192)):
        d = _core.Pool2d(
            N=1, H=size, W=size, C=C, P=size, Q=size, R=3, S=3, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1,
            pad_t=1, pad_l=1, pad_b=1, pad_r=1, x_ld=C, x_row=size * C, x_image=size * size * C, y_ld=C,
        )  # fmt: skip
        _core.prepare(d, isa)
        assert d.chunks % 2 == 0 or d.chunks == size, (size, d.chunks)
