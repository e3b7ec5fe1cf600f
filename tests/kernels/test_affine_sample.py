"""Images seen through affine maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import cases, reference

from .guard import F32, LEVELS, close, dense, random, run

FILLS = ("constant", "nearest", "reflect", "wrap")


def apply(
    isa: Any, x: F32, matrix: F32, size: tuple[int, int], fill: str, bilinear: bool, value: float = 0.0, gap: int = 0
) -> F32:
    n, h, w, c = x.shape
    shape = (n, *size, c)
    desc = _core.AffineSample(
        N=n, H=h, W=w, C=c, P=size[0], Q=size[1], x_ld=c + gap, y_ld=c + gap, fill=getattr(_core.FillMode, fill),
        bilinear=int(bilinear), value=value,
    )  # fmt: skip
    return run(isa, desc, [(x, dense(x.shape, c + gap)), (matrix, (6, 1))], shape, dense(shape, c + gap))


def maps(rng: np.random.Generator, n: int, h: int, w: int) -> F32:
    """Rotations, zooms and shifts whose coordinates are multiples of 1/64, so that every level computes the same."""
    m = rng.integers(-96, 97, (n, 6)) / 64
    m[:, 2::3] += rng.integers(-w, w + 1, (n, 2))
    return m.astype(np.float32)


@pytest.mark.parametrize("bilinear", (True, False), ids=("bilinear", "nearest"))
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_affine_sample(isa: Any, fill: str, bilinear: bool) -> None:
    rng = np.random.default_rng(6)
    for c in (1, 3, *cases.channels(_core.vector_length(isa))):
        for n, h, w, size, gap in ((2, 5, 7, (4, 6), 0), (1, 1, 3, (3, 2), 2), (3, 4, 1, (1, 5), 0)):
            x, matrix = random(rng, n, h, w, c), maps(rng, n, h, w)
            want = reference.affine_sample(x, matrix, size, fill, bilinear, 0.5)
            got = apply(isa, x, matrix, size, fill, bilinear, 0.5, gap)
            close(got, want, terms=4, scale=2.0, note=(c, n, h, w, size))


@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_wide_rows(isa: Any) -> None:
    """Rows longer than the block whose coordinates are computed at once; the identity gives the image itself."""
    rng = np.random.default_rng(7)
    x = random(rng, 1, 3, 300, 2)
    same = np.array([[1, 0, 0, 0, 1, 0]], np.float32)
    for bilinear in (True, False):
        np.testing.assert_array_equal(apply(isa, x, same, (3, 300), "constant", bilinear), x)
    matrix = np.array([[-1, 0, 299, 0.5, 0, 0.25]], np.float32)
    want = reference.affine_sample(x, matrix, (2, 290), "reflect", True)
    close(apply(isa, x, matrix, (2, 290), "reflect", True), want, terms=4, scale=2.0)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_no_matrix_leads_outside(isa: Any, fill: str) -> None:
    x = random(np.random.default_rng(8), 1, 3, 4, 5)
    for bad in (np.nan, np.inf, -np.inf, 1e30, -1e30):
        for i in range(6):
            matrix = np.array([[1, 0, 0, 0, 1, 0]], np.float32)
            matrix[0, i] = bad
            for bilinear in (True, False):
                apply(isa, x, matrix, (3, 4), fill, bilinear)


def test_rejects() -> None:
    x = np.zeros((1, 2, 2, 1), np.float32)
    desc = _core.AffineSample(N=1, H=2, W=0, C=1, P=2, Q=2, x_ld=1, y_ld=1)
    with pytest.raises(ValueError, match="affine_sample: H, W, P and Q"):
        _core.run_kernel(LEVELS[0], desc, [x, np.zeros(6, np.float32)], x.copy())
