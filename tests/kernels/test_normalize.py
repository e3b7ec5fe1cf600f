"""Layer, group and instance normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastconv import _core
from tests import reference

from .guard import EPS, F32, LEVELS, close, dense, random, run


def apply(isa: Any, x: F32, scale: F32 | None, shift: F32 | None, epsilon: float, gap: int = 0) -> F32:
    outer, rows, groups, width = x.shape
    C = groups * width
    strides = dense((outer, rows, C), C + gap)
    desc = _core.Normalize(
        outer=outer, rows=rows, groups=groups, width=width, x_outer=strides[0], x_row=strides[1], y_outer=strides[0],
        y_row=strides[1], epsilon=epsilon,
    )  # fmt: skip
    flat = x.reshape(outer, rows, C)
    operands = [(flat, strides), *((v.reshape(-1), (1,)) for v in (scale, shift) if v is not None)]
    return run(isa, desc, operands, (outer, rows, C), strides).reshape(x.shape)


@pytest.mark.parametrize("gap", (0, 3))
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_normalize(isa: Any, gap: int) -> None:
    rng = np.random.default_rng(6)
    shapes = [(3, 1, 1, n) for n in (1, 2, 7, 16, 100, 3000)]  # layers
    shapes += [(2, 35, c, 1) for c in (1, 3, 16, 64, 65, 130)]  # instances
    shapes += [(2, 70, 3, w) for w in (2, 5, 15, 16, 33)] + [(1, 4, 20, 6)]  # groups
    for shape in shapes:
        x = random(rng, *shape) * np.float32(3) + np.float32(1)
        scale, shift = random(rng, *shape[2:]), random(rng, *shape[2:])
        for s, t in ((scale, shift), (scale, None), (None, None)):
            want = reference.normalize(x, s, t, 0.01)
            close(apply(isa, x, s, t, 0.01, gap), want, terms=4, scale=5.0, note=(shape, gap))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1024), (1, 4096, 8, 1), (1, 4096, 2, 32)])
@pytest.mark.parametrize("isa", LEVELS, ids=lambda i: i.name)
def test_a_mean_far_from_zero_does_not_cancel(isa: Any, shape: tuple[int, ...]) -> None:
    x = (np.random.default_rng(7).standard_normal(shape) + 1000).astype(np.float32)
    want = reference.normalize(x, None, None, 1e-5)
    assert np.abs(apply(isa, x, None, None, 1e-5) - want).max() < 1000 * EPS
