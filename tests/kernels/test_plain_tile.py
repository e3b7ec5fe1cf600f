"""conv2d by the tiles of csrc/cpu/plain_tile.h: one tap of whole vectors, rows that are fetched, filter rows of RGB."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import _core
from tests.cases import ConvCase

from .guard import close
from .test_conv2d import check, isas, operands
from .weighted import conv2d, expected


@isas
def test_one_tap_of_whole_vectors(isa: Any) -> None:
    """Every number of rows, and depths that plain_tile() leaves to tile()."""
    V = _core.vector_length(isa)
    for rows in range(1, 27):
        for vectors in (1, 2, 3):
            for C in (4, 24, 26):
                case = ConvCase(f"{rows}x{C}x{vectors}", 1, 1, rows, C, vectors * V, 1, 1)
                check(isa, case, with_bias=rows % 3 > 0, with_residual=rows % 2 == 0, act="relu6", gaps=(2, 3, 1))


@isas
def test_rows_beyond_the_cache(isa: Any) -> None:
    """Some levels fetch the next rows of images of more than FAR_IMAGE, except of whole pages or with gaps."""
    for C in (132, 1024):
        case = ConvCase(f"{C}", 1, 1, (1 << 18) // C + 5, C, 3 * _core.vector_length(isa), 1, 1)
        for gap in (0, 4):
            check(isa, case, with_bias=True, with_residual=False, act="relu", gaps=(gap, 0, 0))


@isas
def test_filter_rows(isa: Any) -> None:
    """Every number of rows of a tile, filter rows of 3 to 33 numbers. Some are left to tile(), as all with a residual,
    here of zeros: the sums are the same bit for bit."""
    V = _core.vector_length(isa)
    for C, S in ((1, 3), (3, 3), (3, 7), (3, 11), (4, 3), (5, 3)):
        for rows in (*range(1, 15), 26):
            for vectors in (2, 3, 4):
                case = ConvCase(f"{C}-{S}-{rows}-{vectors}", 1, 3, rows + S - 1, C, vectors * V, 3, S)
                x, w, bias, residual = operands(np.random.default_rng(rows), case)
                b = bias if rows % 3 else None
                got = conv2d(isa, case, x, w, b, act="relu6", gaps=(0, rows % 4, 0), algorithm="row_run")
                close(got, expected(case, x, w, b, None, "relu6"), terms=3 * C * S, scale=3 * C + S, note=case)
                whole = conv2d(isa, case, x, w, b, 0 * residual, act="relu6", algorithm="row_run")
                np.testing.assert_array_equal(got, whole, err_msg=str(case))
