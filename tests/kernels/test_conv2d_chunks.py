"""How conv2d is cut into chunks: ranges of rows, panels, groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests.cases import ConvCase

from .test_conv2d import check, cuts, isas, prepared

LARGE = [  # several chunks: of rows, of panels, of groups
    ConvCase("rows", 1, 28, 28, 64, 64, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("rows-7", 2, 14, 14, 48, 96, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("panels", 1, 7, 7, 512, 1000, 1, 1),
    ConvCase("panels-3x3", 1, 7, 7, 128, 520, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("both", 1, 29, 31, 512, 136, 1, 1),
    ConvCase("groups", 1, 15, 15, 128, 256, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1), groups=2),
    ConvCase("one-row", 1, 1, 1, 1280, 1000, 1, 1),
    ConvCase("slices", 1, 7, 7, 1024, 70, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("slices-rows", 2, 45, 35, 256, 66, 3, 3, strides=(2, 2), pads=(1, 1, 1, 1)),
    ConvCase("depth-in-parts-rows", 1, 29, 31, 1100, 66, 1, 1),
    ConvCase("slices-dead-taps", 2, 1, 2, 1024, 33, 3, 3, pads=(1, 1, 1, 1)),
    ConvCase("one-channel", 3, 40, 37, 1, 1, 5, 5, pads=(2, 2, 2, 2)),
    ConvCase("half-vector", 1, 56, 56, 96, 24, 1, 1),
    ConvCase("half-vector-odd", 1, 35, 35, 96, 40, 1, 1),
    ConvCase("lines", 1, 113, 113, 3, 32, 3, 3, strides=(2, 2)),
    ConvCase("points", 2, 57, 45, 64, 256, 1, 1, strides=(2, 2)),
    ConvCase("points-panels", 3, 27, 55, 256, 128, 1, 1, strides=(2, 2)),
    ConvCase("points-beyond-the-image", 1, 14, 13, 40, 64, 1, 1, strides=(2, 2), pads=(0, 0, 2, 3)),
    ConvCase("many-points", 1, 89, 69, 8, 16, 1, 1, strides=(2, 2)),
    ConvCase("many-runs", 1, 90, 70, 1, 5, 3, 3),
    ConvCase("points-groups", 1, 40, 31, 96, 64, 1, 1, strides=(3, 2), groups=2),
    ConvCase("depth-in-parts", 2, 7, 9, 2048, 130, 1, 1),
    ConvCase("depth-in-parts-groups", 1, 5, 5, 2052, 68, 1, 1, groups=2),
    ConvCase("depth-odd", 1, 5, 5, 1025, 33, 1, 1),
]


@isas
@pytest.mark.parametrize("act", ("relu", "leaky_relu"))
@pytest.mark.parametrize("case", LARGE, ids=lambda c: c.name)
def test_chunks(isa: Any, case: ConvCase, act: str) -> None:
    """`weighted.run` computes the chunks in parts, from the last to the first, and compares every bit."""
    check(isa, case, with_bias=True, with_residual=True, act=act, gaps=(1, 7, 4))


@isas
def test_large_cases_have_chunks(isa: Any) -> None:
    counts = {}
    for case in LARGE:
        d = prepared(isa, case, "implicit")
        assert d.chunks == d.row_chunks * d.panel_chunks * case.groups
        counts[case.name] = (d.row_chunks, d.panel_chunks)
    assert counts["rows"][0] > 4 and counts["panels"][1] > 4 and min(counts["both"]) > 1, counts


@isas
@pytest.mark.parametrize("size", (7, 8, 13, 14, 17, 19, 28, 35, 56, 147))
def test_rows_are_cut_evenly(isa: Any, size: int) -> None:
    """Ranges differ by a row, or by two where two rows share a vector, and an odd one more; so do the halves of two
    threads by little."""
    V = _core.vector_length(isa)
    for C, K in ((768, 12 * V), (288, 5 * V), (64, 4 * V), (512, 7 * V), (128, V // 2)):
        d, M = prepared(isa, ConvCase("", 1, size, size, C, K, 1, 1), "gemm"), size * size
        rows = np.diff(cuts(d))
        unit = 2 if K == V // 2 and V > 1 else 1
        assert d.row_unit == unit and all(rows[:-1] % unit == 0), (C, K, rows)
        assert max(rows) == d.rows_per_chunk and max(rows) - min(rows) <= unit + M % unit, (C, K, rows)
        chunks = np.repeat(rows, d.panel_chunks)
        if len(chunks) > 1:
            assert 0.45 < sum(chunks[: len(chunks) // 2]) / sum(chunks) < 0.55, (C, K, rows, d.panel_chunks)


@isas
def test_no_rows(isa: Any) -> None:
    d = prepared(isa, ConvCase("", 0, 7, 7, 64, 64, 1, 1), "gemm")
    assert d.chunks == 0 and d.rows_per_chunk > 0
